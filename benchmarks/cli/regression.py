"""The commands ``compare`` and ``check``: what they read, print and write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cli.execution import execution
from benchmarks.errors import StorageError, UserError
from benchmarks.harness.dispatcher import PlanResult, execute
from benchmarks.planning.plan import Plan
from benchmarks.records import provenance
from benchmarks.records.files import write
from benchmarks.records.reading import has_records
from benchmarks.records.schema import RunSpec
from benchmarks.regression import baseline, false_alarms, golden_weights, history, junit, picture
from benchmarks.regression import check as gates
from benchmarks.regression import compare as comparing
from benchmarks.regression.gate_result import GateResult
from benchmarks.report.table_files import write_data
from weighting import names

FAILED = 1


def compare(options: argparse.Namespace) -> int:
    """Print the table and write it to ``compare.md``, ``.csv`` and ``.tex`` in the second folder."""
    base, head = (_folder(word, options.out) for word in (options.base, options.head))
    found = comparing.compare(base, head)
    print(comparing.terminal(found))
    try:
        path = write(head / "compare.md", comparing.markdown(found))
        write_data(head, comparing.table(found))
    except OSError as error:
        raise StorageError.of(error, head) from error
    print(f"\nfor a pull request: {path}")
    return 0


def check(options: argparse.Namespace, plan: Plan) -> int:
    """Judge the present code by the baseline; or write the baseline's replayed weights, or measure false alarms."""
    against: Path = options.against
    try:
        if options.record:
            print(f"recorded: {golden_weights.record(against, _methods(plan), provenance.commit())}")
            return 0
        if options.repetitions is not None:
            return _calibrate(options)
        return _check(options, gates.methods_only(plan))
    except OSError as error:
        raise StorageError.of(error, against) from error


def _check(options: argparse.Namespace, plan: Plan) -> int:
    against: Path = options.against
    recorded = golden_weights.read(against)
    base = gates.expected(plan, against)
    out = gates.fresh_folder(options.out, plan)
    otherwise = [] if options.dry_run else gates.check_beginnings(base, plan)
    print(f"check {plan.suite} against {against}: {len(plan.runs)} runs, recorded in {out / plan.suite}", flush=True)
    for note in (*base.records.notes, *otherwise):
        print(f"! baseline: {note}", flush=True)
    if options.dry_run:
        return 0
    verdicts = golden_weights.judge(recorded, _methods(plan))
    result = _carry_out(options, out / plan.suite, plan.suite, plan.runs)
    if not result.complete:
        print(f"\nstopped: {len(result.recorded)} of {len(plan.runs)} runs are recorded, nothing was judged")
        return result.exit_code
    head = baseline.read(out / plan.suite, {spec.key for spec in plan.runs})
    head = baseline.without_those_that_began_otherwise(base.records, head)
    verdicts += gates.judge(base, head)
    print("\n".join(["", *junit.lines(verdicts)]))
    for note in head.notes:
        print(f"! this run: {note}")
    if alone := gates.only_in_baseline(base):
        print(f"\nonly in the baseline: {', '.join(alone)}")
    _keep(options, plan, base, verdicts)
    print(f"\n{junit.summary(verdicts)}")
    return FAILED if any(verdict.state == "failed" or verdict.lacking for verdict in verdicts) else 0


def _calibrate(options: argparse.Namespace) -> int:
    plan = false_alarms.plan_of(options.repetitions)
    folder = options.out or false_alarms.FOLDER
    result = _carry_out(options, folder, plan.suite, plan.runs)
    if not result.complete:
        print(f"\nstopped: {len(result.recorded)} of {len(plan.runs)} runs are recorded; the same command goes on from here")
        return result.exit_code
    if result.failures:
        raise UserError(f"check: expected {len(plan.runs)} finished runs, found {len(result.failures)} that failed")
    records = baseline.read(folder, {spec.key for spec in plan.runs})
    print(false_alarms.write_calibration(records, options.repetitions, options.against / "check"))
    return 0


def _carry_out(options: argparse.Namespace, folder: Path, suite: str, runs: list[RunSpec]) -> PlanResult:
    result = execute(folder, suite, runs, **execution(options))
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return result


def _keep(options: argparse.Namespace, plan: Plan, base: gates.Expected, verdicts: Sequence[GateResult]) -> None:
    """JUnit, history and its picture."""
    if options.junit is not None:
        print(f"\njunit:   {write(options.junit, junit.junit(plan.suite, verdicts))}")
    commits = sorted({run.record.commit or "unknown" for run in base.records.runs})
    folder = options.against.parent / history.FOLDER
    entry = history.append(folder, history.entry(plan.suite, provenance.commit(), commits, verdicts))
    entries, warnings = history.read(folder, plan.suite)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    png = write(options.plots / history.FOLDER / f"{plan.suite}.png", picture.draw(entries))
    print(f"\nhistory: {entry}\npicture: {png}")


def _methods(plan: Plan) -> list[str]:
    """All listed methods, and those of the user's own in the suite."""
    return list(dict.fromkeys([*names(), *(spec.weighter.name for spec in plan.runs)]))


def _folder(word: str, out: Path) -> Path:
    """A folder of a suite, as a path or by its name in the folder of results."""
    found = next((place for place in (Path(word), out / word) if has_records(place)), None)
    if found is None:
        raise UserError(f"compare: expected a folder with the records of a suite at {word}, found none")
    return found
