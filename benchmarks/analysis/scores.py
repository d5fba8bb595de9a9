"""Every number of every run of a section in one frame, made once: what tables, pictures, pages and commands take.

``load_scores`` gives it to users; docs/data.md has its columns.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.analysis import delta_m, statistics
from benchmarks.analysis.loading import load
from benchmarks.analysis.relative_cost import ratios, seconds_per_step
from benchmarks.analysis.sections import Section, sections, uniform_runs
from benchmarks.records.schema import COMPARED, SINGLE_TASK_ROLES, TRIAL_ROLES, Floats, MetricInfo, Role, Run

DELTA_METRICS = "delta_m_over_metrics"
DELTA_TASKS = "delta_m_over_tasks"
SPREAD = "convergence_spread"
PRICE = "price_of_one_checkpoint"
SELECTED = "selected_step"
SECONDS = "seconds_per_step"
RELATIVE = "relative_seconds"
FORWARDS = "extra_forwards"
BACKWARDS = "extra_backwards"
MEMORY = "peak_memory_mb"
WEIGHT = "mean_weight"
NUMBERS = (DELTA_METRICS, DELTA_TASKS, SPREAD, PRICE, SELECTED, SECONDS, RELATIVE, FORWARDS, BACKWARDS, MEMORY, WEIGHT)
AGAINST_TUNED = "delta_m_against_tuned"
AGAINST_UNIFORM = "change_against_uniform"
CHANGE = "change:"
"""Before a metric's key: its change in percent against the single-task run of the same seed."""
UNIFORM_CHANGE = "uniform_change:"
"""Before a metric's key: its change in percent against the uniform run of the same seed."""

SCORE_COLUMNS = {
    **dict.fromkeys(("key", "section", "role", "method"), "str"),
    "seed": "int64",
    **dict.fromkeys((*NUMBERS, AGAINST_TUNED, AGAINST_UNIFORM), "float64"),
}
"""The columns that every frame of ``load_scores`` has, in this order, with their types; those of metrics follow."""


@dataclass(frozen=True)
class Measure:
    """The one number by which runs are held against each other; lower is better."""

    column: str
    """Of the frame; NaN in it where the baseline of a run's seed is missing."""
    header: str
    against: str
    """The baseline in words."""


@dataclass(frozen=True)
class Scores:
    """A section with every number of its finished runs."""

    section: Section
    frame: pd.DataFrame
    """One row per finished run. Columns ``role``, ``method`` (the label; of single-task runs the task), ``seed``, ``run``
    (the key), the test metrics by key, ``CHANGE`` and ``UNIFORM_CHANGE`` of ``judged``, ``NUMBERS``, ``AGAINST_TUNED``,
    ``AGAINST_UNIFORM``. Trials are not in it: they were trained to be chosen from by validation."""
    judged: tuple[MetricInfo, ...]
    """The metrics that enter the changes."""
    measure: Measure
    """Of runs at the default setting."""
    tuned: Measure
    """Of runs at the setting that was chosen for them, and of what they are held against."""
    warnings: tuple[str, ...]
    """Which baselines are missing."""

    @cached_property
    def methods(self) -> pd.DataFrame:
        """The rows of the methods, in the order of the section's methods and seeds, without what tells roles apart."""
        changes = [CHANGE + info.key for info in self.judged]
        columns = ["method", "seed", "run", *[info.key for info in self.section.metrics], *changes, *NUMBERS]
        return self._by_role["method"][columns].reset_index(drop=True)

    def of(self, role: Role, label: str) -> pd.DataFrame:
        """The rows of a role that belong to a label, in the order of their seeds."""
        rows = self._by_role[role]
        return rows[rows["method"] == label]

    def by_seed(self, role: Role, label: str, measure: Measure) -> dict[int, float]:
        """Seed -> number of the run of that seed."""
        rows = self.of(role, label)
        return dict(zip(rows["seed"].tolist(), rows[measure.column].tolist(), strict=True))

    @cached_property
    def _by_role(self) -> dict[str, pd.DataFrame]:
        none = self.frame.iloc[:0]
        groups = {str(role): rows for role, rows in self.frame.groupby("role", sort=False)}
        return {role: groups.get(role, none) for role in _ROLES}


_ROLES: tuple[Role, ...] = (*COMPARED, "simplex", "tuned", "frozen", "single_task_tuned")


def scores(section: Section) -> Scores:
    """All numbers of a section. Call it once, and hand the answer on."""
    judged = delta_m.judged_metrics(section)
    baselines = _baselines(section, judged)
    rows = [_row(section, role, label, run, judged, baselines) for role, label, run in _runs(section)]
    changes = [prefix + info.key for prefix in (CHANGE, UNIFORM_CHANGE) for info in judged]
    metrics = [info.key for info in section.metrics]
    columns = ["role", "method", "seed", "run", *metrics, *changes, *NUMBERS, AGAINST_TUNED, AGAINST_UNIFORM]
    return Scores(
        section=section,
        frame=pd.DataFrame(rows, columns=columns),
        judged=tuple(judged),
        measure=_measure(judged, DELTA_METRICS, baselines.single, "STL at the default setting"),
        tuned=_measure(judged, AGAINST_TUNED, baselines.tuned, baselines.tuned_to),
        warnings=baselines.warnings,
    )


def load_scores(path: str | Path) -> pd.DataFrame:
    """One row per finished run of a suite's folder, with what the tables are averages of: columns in docs/data.md.

    Warns of records that cannot be read, of runs that cannot be compared and of baselines that are missing. Raises
    ValueError where there are no records.
    """
    loaded = load(Path(path))
    if not loaded.runs:
        raise ValueError(f"expected records below {path}, found none")
    found, texts = sections(loaded.runs)
    scored = [scores(section) for section in found]
    for text in (*(each.reason for each in loaded.unusable), *texts, *(text for each in scored for text in each.warnings)):
        warnings.warn(text, stacklevel=2)
    frame = pd.concat([_for_users(each) for each in scored], ignore_index=True)
    further = [name for name in frame.columns if name not in SCORE_COLUMNS]
    return frame[[*SCORE_COLUMNS, *further]].astype(SCORE_COLUMNS | dict.fromkeys(further, "float64"))


def _for_users(found: Scores) -> pd.DataFrame:
    """With the names that ``benchmarks.load`` has for the same things."""
    metrics = {info.key: f"test.{info.key}" for info in found.section.metrics}
    return found.frame.rename(columns={"run": "key", **metrics}).assign(section=found.section.name)


@dataclass(frozen=True)
class _Baselines:
    """Seed -> ``(M,)`` values of the judged metrics, NaN where there is none."""

    single: Mapping[int, Floats]
    tuned: Mapping[int, Floats]
    """The single-task runs at the setting that was chosen for them; the same as ``single`` where none was."""
    tuned_to: str
    uniform: Mapping[int, Floats]
    uniform_runs: Sequence[Run]
    warnings: tuple[str, ...]


def _baselines(section: Section, judged: Sequence[MetricInfo]) -> _Baselines:
    single, texts = delta_m.baselines(section)
    uniform = uniform_runs(section)
    has_tuned = "single_task_tuned" in section.others
    return _Baselines(
        single=single,
        tuned=delta_m.baselines(section, tuned=True)[0] if has_tuned else single,
        tuned_to="tuned STL" if has_tuned else "STL at the default setting",
        uniform={run.seed: delta_m.values_on_test(run, judged) for run in uniform},
        uniform_runs=uniform,
        warnings=tuple(texts),
    )


def _measure(judged: Sequence[MetricInfo], column: str, baseline: Mapping[int, Floats], against: str) -> Measure:
    """Delta-m against single-task runs, mean over metrics; the change against uniform weights where a seed lacks those."""
    if judged and all(np.isfinite(values).all() for values in baseline.values()):
        return Measure(column, "Δm %", against)
    return Measure(AGAINST_UNIFORM, "change against uniform %", "uniform at the default setting")


def _runs(section: Section) -> Iterator[tuple[Role, str, Run]]:
    """(Role, label, run) of every finished run but the trials."""
    for method in section.methods:
        yield from (("method", method, run) for run in section.finished(method))
    for task in section.tasks:
        found = (section.baseline(task, seed) for seed in section.seeds)
        yield from (("single_task", task, run) for run in found if run is not None)
    for role, by_label in section.others.items():
        if role not in TRIAL_ROLES:
            for label in dict.fromkeys(label for label, _ in by_label):
                yield from ((role, label, run) for run in section.of_role(role, label))


def _row(
    section: Section, role: Role, label: str, run: Run, judged: Sequence[MetricInfo], baselines: _Baselines
) -> dict[str, object]:
    nothing = np.full(len(judged), math.nan)
    test = run.record.metrics.get("test", {})
    row: dict[str, object] = {"role": role, "method": label, "seed": run.seed, "run": run.record.key}
    row |= {info.key: test.get(info.key, math.nan) for info in section.metrics}
    changes = delta_m.changes_of(run, judged, baselines.single.get(run.seed, nothing))
    uniform = delta_m.changes_of(run, judged, baselines.uniform.get(run.seed, nothing))
    for prefix, values in ((CHANGE, changes), (UNIFORM_CHANGE, uniform)):
        row |= {prefix + info.key: value for info, value in zip(judged, values, strict=True)}
    tuned = delta_m.changes_of(run, judged, baselines.tuned.get(run.seed, nothing))
    row[DELTA_METRICS] = float(delta_m.over_metrics(changes))
    row[DELTA_TASKS] = float(delta_m.over_tasks(changes, [str(info.task) for info in judged]))
    row[AGAINST_TUNED] = float(delta_m.over_metrics(tuned))
    row[AGAINST_UNIFORM] = float(delta_m.over_metrics(uniform))
    # A single-task run has another model in memory and another loss: its step is no step of a method.
    pairs = {} if role in SINGLE_TASK_ROLES else ratios([run], baselines.uniform_runs)
    row[RELATIVE] = pairs.get(run.seed, math.nan)
    return row | _convergence(run) | _cost(run)


def _convergence(run: Run) -> dict[str, float]:
    selection = run.record.selection
    selected = -1 if selection is None else selection.step
    steps, losses = run.values("val_loss")
    return {
        SPREAD: statistics.convergence_spread(steps, losses, run.record.run.training.steps),
        PRICE: statistics.price_of_one_checkpoint(steps, losses, selected),
        SELECTED: float(selected),
        WEIGHT: statistics.mean_weight(run.values("weight")[1]),
    }


def _cost(run: Run) -> dict[str, float]:
    costs = run.record.costs
    return {
        SECONDS: seconds_per_step(run),
        FORWARDS: math.nan if costs is None else costs.extra_forwards,
        BACKWARDS: math.nan if costs is None else costs.extra_backwards,
        MEMORY: math.nan if costs is None or costs.peak_memory_mb is None else costs.peak_memory_mb,
    }
