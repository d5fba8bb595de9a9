"""``run_bench.py check``: the present code against recorded results, by three gates.

The key of a run does not change with the code of a listed method, so a record may be older than the code that it is taken
for. ``check`` therefore trains into a folder of its own, ``results/check/<commit>`` (with the time where files differ from
the commit), and refuses one that holds records of other code. Single-task baselines are not trained: metrics are compared
with those of the baseline's runs directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.analysis.comparable import conditions, difference
from benchmarks.analysis.loading import load
from benchmarks.analysis.sections import STL
from benchmarks.catalog import make_problem
from benchmarks.errors import UserError
from benchmarks.harness.loop import Loop
from benchmarks.planning.plan import Plan
from benchmarks.records import provenance
from benchmarks.records.reading import has_records
from benchmarks.records.schema import RunSpec
from benchmarks.regression import baseline, quality, step_cost
from benchmarks.regression.baseline import RecordSet
from benchmarks.regression.gate_result import GateResult
from weighting.uniform import Uniform

FOLDER = Path("results") / "check"
CHANGED = "+changes"
"""What ``provenance.commit`` ends with where files differ from the commit."""


@dataclass(frozen=True)
class Expected:
    """What a baseline holds of a plan."""

    records: RecordSet
    planned: Mapping[str, Mapping[str, Sequence[RunSpec]]]
    """Conditions -> label -> runs of the plan, those of methods that the baseline lacks included."""


def methods_only(plan: Plan) -> Plan:
    """The plan without single-task runs. Raises UserError where seeds are too few to judge by."""
    runs = [spec for spec in plan.runs if spec.role == "method"]
    seeds = {spec.problem.name: {other.seed for other in runs if other.problem == spec.problem} for spec in runs}
    for problem, numbers in seeds.items():
        if len(numbers) < quality.MIN_SEEDS:
            raise UserError(f"check: expected at least {quality.MIN_SEEDS} seeds for {problem}, found {len(numbers)}")
    if not runs:
        raise UserError(f"check: expected methods other than {STL}, found none")
    return replace(plan, runs=runs)


def expected(plan: Plan, against: Path) -> Expected:
    """The baseline of a plan, checked to be one. Raises UserError."""
    folder = against / plan.suite
    if not folder.is_dir():
        there = sorted(path.name for path in against.glob("*") if has_records(path))
        raise UserError(f"expected a baseline of suite {plan.suite!r} in {against}, found {', '.join(there) or 'no suite'}")
    records = baseline.read(folder)
    other = next((run for run in records.runs if run.record.suite != plan.suite), None)
    if other is not None:
        raise UserError(f"{folder}: expected records of suite {plan.suite!r}, found {other.record.suite!r}")
    planned: dict[str, dict[str, list[RunSpec]]] = {}
    for spec in plan.runs:
        key = conditions(spec)
        if key not in records.by_conditions:
            raise UserError(f"{folder}: expected runs of {spec.problem.name} as planned here, {_found(records, spec)}")
        planned.setdefault(key, {}).setdefault(spec.weighter.label, []).append(spec)
        label = baseline.partner(records.by_conditions[key], spec, spec.weighter.label)
        seeds = None if label is None else records.by_conditions[key][label]
        if seeds is not None and spec.seed not in seeds and not baseline.why_lost(records, spec):
            raise UserError(
                f"{folder}: expected a run of {spec.weighter.label} on {spec.problem.name}, seed {spec.seed}, found only "
                f"seeds {', '.join(map(str, sorted(seeds)))}"
            )
    return Expected(records, planned)


def fresh_folder(given: Path | None, plan: Plan) -> Path:
    """Where to train: a folder without records of other code. Raises UserError."""
    commit = provenance.commit()
    known = commit is not None and not commit.endswith(CHANGED)
    if given is None:
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        given = FOLDER / (str(commit) if known else f"{commit or 'unknown'}-{time}")
    folder = given / plan.suite
    try:
        runs = load(folder).runs
    except OSError as error:
        raise UserError(f"{folder}: expected a folder of records that can be read: {error.strerror}") from error
    stale = [run for run in runs if not known or run.record.commit != commit]
    if stale:
        raise UserError(
            f"{folder}: expected no records but of commit {commit if known else '(the present code has none)'}, found "
            f"{len(stale)} of {stale[0].record.commit}; name another --out, or remove them"
        )
    return given


def check_beginnings(base: Expected, plan: Plan) -> list[str]:
    """Which runs would begin otherwise than the baseline's, in words: told before anything is trained.

    What cannot even be made is left to its run, whose record says why. Raises UserError where no run would begin alike.
    """
    found = []
    for spec in {(conditions(spec), spec.seed): spec for spec in plan.runs}.values():
        try:
            problem = make_problem(spec.problem.name, spec.problem.tasks, spec.problem.options)
            data = problem.data(spec.seed, spec.training)
            uniform = Uniform(problem.num_tasks, batch_shape=problem.batch_shape)
            loop = Loop(problem, data, uniform, spec.training, spec.seed, device=torch.device("cpu"))
        except Exception:  # noqa: BLE001 - a problem may raise anything
            continue
        why = baseline.began_otherwise(base.records, spec, loop.fingerprints())
        found.append(f"{spec.problem.name}, seed {spec.seed}: {why}" if why else "")
    if found and all(found):
        raise UserError(f"{base.records.folder}: expected runs that begin as these, found other beginnings: {found[0]}")
    return [text for text in found if text]


def judge(base: Expected, head: RecordSet) -> list[GateResult]:
    """Quality and cost of every method of the plan."""
    return [
        verdict
        for key, methods in base.planned.items()
        for label, specs in methods.items()
        for verdict in _judge(base.records, head, key, label, specs)
    ]


def _judge(base: RecordSet, head: RecordSet, key: str, label: str, specs: Sequence[RunSpec]) -> list[GateResult]:
    before, after = base.by_conditions[key], head.by_conditions.get(key, {})
    problem = base.sections[key].name
    lost = {spec.seed: why for spec in specs if (why := baseline.why_lost(base, spec) or baseline.why_lost(head, spec))}
    there, now = (baseline.partner(methods, specs[0], label) for methods in (before, after))
    if there is None or now is None:
        reason = f"not in {'the baseline' if there is None else 'this run'}: nothing to compare with"
        found = [GateResult(gate, problem, label, "not judged", reason) for gate in (quality.GATE, step_cost.GATE)]
    else:
        changed = baseline.changed_hyperparameters(before[there], after[now])
        found = [
            _with(changed, quality.judge(problem, label, before, there, after[now])),
            _with(changed, step_cost.judge(problem, label, (before, there), (after, now))),
        ]
    return [_lacking(verdict, lost) for verdict in found]


def _lacking(verdict: GateResult, lost: Mapping[int, str]) -> GateResult:
    """The verdict, which is none where it passes without runs that were left out."""
    if not lost:
        return verdict
    reason = "; ".join(f"seed {seed} is left out: {why}" for seed, why in sorted(lost.items()))
    reason = f"{reason}; without: {verdict.reason}"
    if verdict.state == "failed":
        return replace(verdict, reason=reason)
    return replace(verdict, state="not judged", reason=reason, lacking=True)


def only_in_baseline(base: Expected) -> list[str]:
    """Methods of the baseline that the plan has not, as ``method on problem``."""
    found = []
    for key, methods in base.records.by_conditions.items():
        planned = base.planned.get(key, {})
        partners = {baseline.partner(methods, specs[0], label) for label, specs in planned.items()}
        found += [f"{label} on {base.records.sections[key].name}" for label in methods if label not in partners]
    return found


def _with(settings: str, verdict: GateResult) -> GateResult:
    return replace(verdict, reason=f"{verdict.reason} (hyperparameters: {settings})") if settings else verdict


def _found(records: RecordSet, spec: RunSpec) -> str:
    specs = [records.sections[key].spec for key in records.by_conditions]
    near = next((each for each in specs if each.problem.name == spec.problem.name), None)
    if near is not None:
        return f"found {difference(near, spec, 'here')}"
    note = f" ({records.notes[0]})" if records.notes else ""
    return f"found only {', '.join(sorted({each.problem.name for each in specs})) or 'single-task runs'}{note}"
