"""The commands of ``run_bench.py``: each takes the parsed options and returns the exit code."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.catalog import code_of_the_user, trust
from benchmarks.cli.execution import execution
from benchmarks.errors import StorageError, UserError
from benchmarks.harness.devices import Devices, check_here, read_devices
from benchmarks.harness.dispatcher import PlanResult, execute, runs_at_once
from benchmarks.harness.display import run_name
from benchmarks.planning.follow_up import follow_up
from benchmarks.planning.plan import Filters, Plan, make_plan
from benchmarks.planning.status import PlanStatus, Recorded, plan_status
from benchmarks.planning.suite import read_suite
from benchmarks.records.packing import Packing, pack_runs, unpack_runs
from benchmarks.records.schema import TRIAL_ROLES, RunSpec
from benchmarks.records.tracking import check_tracker, track

if TYPE_CHECKING:
    from benchmarks.analysis.suite_tables import SuiteTables

FAILED = 1


def run(options: argparse.Namespace) -> int:
    """Train what the suite's plan still lacks, then report."""
    plan = _plan(options)
    if options.track:
        check_tracker(options.track)
    if not options.dry_run:
        _check_folder(options.plots)
    trained = _train(plan, options)
    if trained is None:
        return 0
    plan, result = trained
    if not result.complete:
        return result.exit_code
    _report(plan, options.out / plan.suite, options.plots)
    if options.track:
        _track(options.track, plan, options.out / plan.suite)
    return _say_failures(result)


def _train(plan: Plan, options: argparse.Namespace) -> tuple[Plan, PlanResult] | None:
    """Train what the plan still lacks. Returns the plan with what followed from its runs; None after a dry run."""
    how = execution(options)
    folder: Path = options.out / plan.suite
    status = plan_status(folder, plan.runs)
    _print_plan(plan, status, options)
    if options.dry_run:
        for spec in plan.runs:
            print(_run_line(spec, status))
        return None
    _check_folder(folder)
    result = execute(folder, plan.suite, plan.runs, **how)
    if result.complete:
        further = follow_up(plan, folder)
        if further:
            print(f"{len(further)} runs follow from these: tuned and frozen settings", flush=True)
            plan = replace(plan, runs=plan.runs + further)
            # Once more with all runs: those that are recorded count and are not trained again.
            warnings = result.warnings
            result = execute(folder, plan.suite, plan.runs, **how)
            result.warnings = warnings + result.warnings
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _say_unfinished(plan, result)
    return plan, result


def _say_unfinished(plan: Plan, result: PlanResult) -> None:
    done = f"{len(result.recorded)} of {len(plan.runs)} runs are recorded"
    if result.interrupted:
        print(f"\nstopped: {done}; the same command goes on from here:\n  {_this_command()}")
    elif result.unfinished:
        print(f"\n{done}, the others are in the hands of other commands; `report` when these have ended")


def report(options: argparse.Namespace) -> int:
    """Make tables and pictures again from the records of the suite's plan."""
    plan = _plan(options, to_train=False)
    folder: Path = options.out / plan.suite
    plan = replace(plan, runs=plan.runs + follow_up(plan, folder))
    status = plan_status(folder, plan.runs)
    lacking = status.to_do.keys() - status.replaced.keys() - status.pairs.keys()
    if len(lacking) == len(plan.runs):
        raise UserError(f"expected recorded runs of suite {plan.suite!r} in {folder}, found none")
    if lacking:
        print(f"warning: {len(lacking)} of {len(plan.runs)} planned runs have no record that can be read", file=sys.stderr)
    suite = _report(plan, folder, options.plots)
    if options.html:
        _page(suite, plan.question, options)
    return 0


def calibrate(options: argparse.Namespace) -> int:
    """How often the comparison errs, from the recorded uniform runs of a suite with many seeds."""
    from benchmarks.report.suite_report import write_calibration

    plan = _plan(options, to_train=False)
    folder: Path = options.out / plan.suite
    try:
        text = write_calibration(folder, keys={spec.key for spec in plan.runs})
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    except OSError as error:
        raise StorageError.of(error, folder) from error
    print(text)
    return 0


def overhead(options: argparse.Namespace) -> int:
    """Measure what a step costs under each weighter, beside hand-written PyTorch."""
    from benchmarks.overhead.measure import write_costs

    _check_folder(options.out)
    try:
        print(write_costs(options.out, torch.device(options.device), options.parts))
    except OSError as error:
        raise StorageError.of(error, options.out) from error
    return 0


def check_weighter(options: argparse.Namespace) -> int:
    """Hold one method, listed or of one's own, to the contract and its claims."""
    from benchmarks.catalog import weighter_class
    from weighting.testing import check_weighter as check

    trust([options.checked])
    told = check(weighter_class(options.checked))
    print(told)
    return 0 if told.ok else FAILED


def check_problem(options: argparse.Namespace) -> int:
    """Hold one problem, listed or of one's own, to the contract."""
    from benchmarks.catalog import problem_class
    from benchmarks.testing import check_problem as check

    trust([options.checked])
    told = check(problem_class(options.checked))
    print(told)
    return 0 if told.ok else FAILED


def migrate(options: argparse.Namespace) -> int:
    """Give records of an older form today's form and key."""
    from benchmarks.records.migrate import migrate as carry_out_migration

    try:
        found = carry_out_migration(options.folder)
    except OSError as error:
        raise StorageError.of(error, options.folder) from error
    print(f"{found.rewritten} records rewritten, {found.already} were of today's form, {len(found.left)} left as they are")
    for reason in found.left:
        print(f"left: {reason}", file=sys.stderr)
    return FAILED if found.left else 0


def pack(options: argparse.Namespace) -> int:
    """Put the runs of every suite below a folder into two files."""
    return _say_packed(pack_runs(options.folder), "packed")


def unpack(options: argparse.Namespace) -> int:
    """Give every packed run a folder of its own again."""
    return _say_packed(unpack_runs(options.folder), "unpacked")


def _say_packed(found: Packing, what: str) -> int:
    print(f"{found.changed} runs {what}")
    for reason in found.left:
        print(f"left: {reason}", file=sys.stderr)
    return FAILED if found.left else 0


def compare(options: argparse.Namespace) -> int:
    """One table of what changed between two folders of records."""
    from benchmarks.cli.regression import compare as carry_out_compare

    return carry_out_compare(options)


def check(options: argparse.Namespace) -> int:
    """Judge the present code by recorded results."""
    from benchmarks.cli.regression import check as carry_out_check

    return carry_out_check(options, _plan(options))


def reproduce(options: argparse.Namespace) -> int:
    """Train what a paper's claims need, then put published numbers, others' re-runs and ours side by side."""
    from benchmarks.papers.experiments import experiments, suite_of
    from benchmarks.papers.reproduction import write_reproduction

    found = experiments(options.paper)
    folder: Path = options.out / suite_of(options.paper)
    result, keys = PlanResult(), set[str]()
    if found:
        options.suite = suite_of(options.paper)
        options.weighters = options.weighters or list(dict.fromkeys(name for each in found for name in each.weighters))
        trained = _train(_plan(options), options)
        if trained is None:
            return 0
        plan, result = trained
        if not result.complete:
            return result.exit_code
        keys = {spec.key for spec in plan.runs}
    _check_folder(folder)
    try:
        print(f"\n{write_reproduction(options.paper, folder, keys)}\n\nreport: {folder / 'reproduce.md'}")
    except OSError as error:
        raise StorageError.of(error, folder) from error
    return _say_failures(result)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "report": report,
    "calibrate": calibrate,
    "overhead": overhead,
    "compare": compare,
    "check": check,
    "migrate": migrate,
    "pack": pack,
    "unpack": unpack,
    "check-weighter": check_weighter,
    "check-problem": check_problem,
    "reproduce": reproduce,
}


def carry_out(options: argparse.Namespace) -> int:
    """One command, which runs no code that its user has not named. Returns its exit code."""
    with code_of_the_user(everybodys=options.trust):
        return COMMANDS[options.command](options)


def _plan(options: argparse.Namespace, *, to_train: bool = True) -> Plan:
    filters = Filters(options.problems, options.weighters, options.seeds, options.steps)
    devices = read_devices(options.devices, options.per_device if to_train else 1)
    if to_train and options.executor != "ray":
        check_here(devices)
    file = read_suite(options.suite)
    if file.is_here:
        trust(file.suite.names)
    return make_plan(file, filters, devices.kind, to_train=to_train)


def _check_folder(folder: Path) -> None:
    """Raise UserError unless files can be written into the folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name of its own for each command, so that two at once do not remove each other's.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"expected a folder that can be written at {folder}: {error.strerror}") from error


def _report(plan: Plan, folder: Path, plots: Path) -> SuiteTables:
    """Write tables and pictures. Returns what they were made from."""
    from benchmarks.analysis.suite_tables import suite_tables
    from benchmarks.report.suite_report import write_report

    try:
        suite = suite_tables(folder, {spec.key for spec in plan.runs})
        made = write_report(suite, plots / plan.suite)
    except OSError as error:
        raise StorageError.of(error, folder) from error
    print()
    print(made.text)
    print(f"\ntables:   {folder / 'report.md'}\npictures: {plots / plan.suite}")
    return suite


def _track(tracker: str, plan: Plan, folder: Path) -> None:
    written = track(tracker, folder, [spec.key for spec in plan.runs])
    print(f"tracked:  {written} runs written to {tracker}")


def _page(suite: SuiteTables, question: str, options: argparse.Namespace) -> None:
    from benchmarks.report.html.page import write_html

    try:
        print(f"page:     {write_html(suite, question, _selection(options))}")
    except OSError as error:
        raise StorageError.of(error, suite.folder) from error


def _selection(options: argparse.Namespace) -> str:
    """The suite and the filters, as somebody would give them to choose the same runs again."""
    words = [options.suite]
    for name in ("problems", "weighters", "seeds"):
        if getattr(options, name):
            words += [f"--{name}", ",".join(map(str, getattr(options, name)))]
    if options.steps:
        words += ["--steps", str(options.steps)]
    if options.devices != "cpu":
        words += ["--devices", options.devices]
    if options.trust:
        words += ["--trust"]
    return shlex.join(words)


def _say_failures(result: PlanResult) -> int:
    # A trial that diverges is a setting that loses, not a comparison that lacks a run.
    failures: list[Recorded] = [each for each in result.failures if each.spec.role not in TRIAL_ROLES]
    if not failures:
        return 0
    first = failures[0]
    print(
        f"error: {len(failures)} of {len(result.recorded)} runs did not finish; the first: {run_name(first.spec)} "
        f"{first.state}: {first.reason}",
        file=sys.stderr,
    )
    return FAILED


def _print_plan(plan: Plan, status: PlanStatus, options: argparse.Namespace) -> None:
    if plan.question:
        print(f"suite {plan.suite}: {plan.question}\n")
    for name, runs in _by_problem(plan):
        methods = dict.fromkeys(run.weighter.label for run in runs if run.role == "method")
        single = dict.fromkeys(run.problem.tasks[0] for run in runs if run.role == "single_task")
        seeds = dict.fromkeys(str(run.seed) for run in runs)
        print(f"  {name}: {runs[0].training.steps} steps, seeds {' '.join(seeds)}")
        if methods:
            print(f"    weighters    {', '.join(methods)}")
        if single:
            print(f"    single task  {', '.join(single)}")
        for role, roles in (("simplex", ("simplex",)), ("trial", TRIAL_ROLES)):
            number = sum(run.role in roles for run in runs)
            if number:
                print(f"    {role:11}  {number} runs")
    count = f"{len(plan.runs)} runs: {len(plan.runs) - len(status.to_do)} recorded, {len(status.to_do)} to train"
    if status.pairs:
        count += f" ({len(status.pairs)} of them again, for the time of a step beside runs that are trained now)"
    threads = sorted({run.training.threads for run in plan.runs})
    each = f"{' or '.join(map(str, threads))} thread{'s' * (threads != [1])} each"
    print(f"\n{count}, {_at_a_time(plan, options)} on {execution(options)['devices']}, {each}", flush=True)


def _at_a_time(plan: Plan, options: argparse.Namespace) -> str:
    if options.executor == "ray" and options.jobs is None:
        return "as many at a time as the cluster has room for"
    devices: Devices = execution(options)["devices"]
    jobs = 1 if options.executor == "here" else options.jobs or devices.slots or runs_at_once(plan.runs)
    return f"{jobs} at a time"


def _by_problem(plan: Plan) -> list[tuple[str, list[RunSpec]]]:
    names = dict.fromkeys(run.problem.name for run in plan.runs)
    return [(name, [run for run in plan.runs if run.problem.name == name]) for name in names]


def _run_line(spec: RunSpec, status: PlanStatus) -> str:
    if spec.key in status.pairs:
        return f"  {spec.key}  again     {run_name(spec)}, as the pair of {status.pairs[spec.key]}"
    return f"  {spec.key}  {'to train' if spec.key in status.to_do else 'recorded':9} {run_name(spec)}"


def _this_command() -> str:
    return shlex.join([Path(sys.executable).name, *sys.argv])
