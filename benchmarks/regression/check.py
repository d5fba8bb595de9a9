"""``run_bench.py check``: the present code against recorded results, by three gates.

The key of a run does not change with the code of a listed method, so a record may be older than the code that it is taken
for. ``check`` therefore trains into a folder of its own, ``results/check/<commit>`` (with the time where files differ from
the commit), and refuses one that holds records of other code. Single-task baselines are not trained: metrics are compared
with those of the baseline's runs directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.analysis.loading import load
from benchmarks.analysis.sections import STL
from benchmarks.errors import UserError
from benchmarks.harness import provenance
from benchmarks.harness.loop import Loop
from benchmarks.harness.plan import Plan, problem_from
from benchmarks.record import RunSpec
from benchmarks.regression import cost, quality, sides
from benchmarks.regression.sides import Side
from benchmarks.regression.verdict import Verdict
from weighting.uniform import Uniform

FOLDER = Path("results") / "check"
CHANGED = "+changes"
"""What ``provenance.commit`` ends with where files differ from the commit."""


@dataclass(frozen=True)
class Expected:
    """What a baseline holds of a plan."""

    side: Side
    labels: Mapping[str, tuple[str, ...]]
    """Setting -> methods of the plan, those that the baseline lacks included."""


def methods_only(plan: Plan) -> Plan:
    """The plan without single-task runs. Raises UserError where seeds are too few to judge by."""
    runs = [spec for spec in plan.runs if spec.role == "method"]
    seeds = {spec.problem.name: {other.seed for other in runs if other.problem == spec.problem} for spec in runs}
    for problem, numbers in seeds.items():
        if len(numbers) < quality.LEAST_SEEDS:
            raise UserError(f"check: expected at least {quality.LEAST_SEEDS} seeds for {problem}, found {len(numbers)}")
    if not runs:
        raise UserError(f"check: expected methods other than {STL}, found none")
    return replace(plan, runs=runs)


def expected(plan: Plan, against: Path) -> Expected:
    """The baseline of a plan, checked to be one. Raises UserError."""
    folder = against / plan.suite
    if not folder.is_dir():
        there = sorted(path.parent.name for path in against.glob("*/runs"))
        raise UserError(f"expected a baseline of suite {plan.suite!r} in {against}, found {', '.join(there) or 'no suite'}")
    side = sides.read(folder)
    other = next((run for run in side.runs if run.record.suite != plan.suite), None)
    if other is not None:
        raise UserError(f"{folder}: expected records of suite {plan.suite!r}, found {other.record.suite!r}")
    labels: dict[str, list[str]] = {}
    for spec in plan.runs:
        key = sides.setting(spec)
        if key not in side.settings:
            raise UserError(f"{folder}: expected runs of {spec.problem.name} as planned here, {_found(side, spec, key)}")
        labels.setdefault(key, [])
        if spec.weighter.label not in labels[key]:
            labels[key].append(spec.weighter.label)
        seeds = side.settings[key].get(spec.weighter.label)
        if seeds is not None and spec.seed not in seeds:
            raise UserError(
                f"{folder}: expected a run of {spec.weighter.label} on {spec.problem.name}, seed {spec.seed}, found only "
                f"seeds {', '.join(map(str, sorted(seeds)))}"
            )
    return Expected(side, {key: tuple(names) for key, names in labels.items()})


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


def check_beginnings(base: Expected, plan: Plan) -> None:
    """Raise UserError where runs would begin otherwise than the baseline's: told before anything is trained.

    What cannot even be made is left to its run, whose record says why.
    """
    for spec in {(sides.setting(spec), spec.seed): spec for spec in plan.runs}.values():
        try:
            problem = problem_from(spec.problem)
            data = problem.data(spec.seed, spec.training)
            uniform = Uniform(problem.num_tasks, batch_shape=problem.batch_shape)
            loop = Loop(problem, data, uniform, spec.training, spec.seed, device=torch.device("cpu"))
        except Exception:  # noqa: BLE001 - a problem may raise anything
            continue
        sides.check_beginning(base.side, spec, loop.fingerprints())


def judge(base: Expected, head: Side) -> list[Verdict]:
    """Quality and cost of every method of the plan."""
    verdicts = []
    for key, labels in base.labels.items():
        before, after = base.side.settings[key], head.settings[key]
        problem = sides.problem_of(after)
        for label in labels:
            if label not in before:
                reason = "not in the baseline: nothing to compare with"
                verdicts += [Verdict(gate, problem, label, "not judged", reason) for gate in (quality.GATE, cost.GATE)]
                continue
            settings = sides.changed_settings(before, after, label)
            verdicts.append(_with(settings, quality.judge(problem, label, before, after[label])))
            verdicts.append(_with(settings, cost.judge(problem, label, before, after)))
    return verdicts


def only_in_baseline(base: Expected) -> list[str]:
    """Methods of the baseline that the plan has not, as ``method on problem``."""
    return [
        f"{label} on {sides.problem_of(methods)}"
        for key, methods in base.side.settings.items()
        for label in methods
        if label not in base.labels.get(key, ())
    ]


def _with(settings: str, verdict: Verdict) -> Verdict:
    return replace(verdict, reason=f"{verdict.reason} (hyperparameters: {settings})") if settings else verdict


def _found(side: Side, spec: RunSpec, key: str) -> str:
    near = [other for other, methods in side.settings.items() if sides.problem_of(methods) == spec.problem.name]
    if near:
        return f"found {sides.difference(near[0], key, 'here')}"
    return f"found only {', '.join(sorted({sides.problem_of(methods) for methods in side.settings.values()}))}"
