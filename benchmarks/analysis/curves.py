"""The curves of a section, computed once: pictures and the page draw them.

A curve is thinned to as many points as its reader can show. Losses keep single evaluations; what is logged at every step
(weights, numbers inside a method) is meaned over windows of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from benchmarks.analysis.scales import Scale, of_losses, off_scale, scale
from benchmarks.analysis.sections import STL, Section
from benchmarks.analysis.spread import Spread, alike, spread
from benchmarks.analysis.statistics import band, present_mean, windows
from benchmarks.records.schema import OF_METHOD, Floats, Run, Steps


@dataclass(frozen=True)
class Trace:
    """A line over the steps."""

    name: str
    """The method, or ``STL``."""
    steps: Steps
    """``(T,)``."""
    mean: Floats
    """``(T,)`` over runs; NaN where a run lacks the number."""
    error: Floats
    """``(T,)`` standard error over runs; NaN for fewer than two."""
    runs: int


@dataclass(frozen=True)
class LossPanel:
    """The validation loss of one task under all methods."""

    task: str
    traces: tuple[Trace, ...]
    """The single-task baseline where there is one, then the methods; over finished runs."""
    failed: tuple[Trace, ...]
    """One for each run that failed, up to its last number; in no mean."""
    scale: Scale | None
    beyond: tuple[str, ...]
    """Names of the lines that leave the scale."""


@dataclass(frozen=True)
class TaskPanel:
    """A number of every task over the steps under one method."""

    method: str
    column: str
    """Of the trajectories, or ``RISE``."""
    steps: Steps
    """``(T,)``, the middles of the windows."""
    mean: Floats
    """``(K, T)`` over runs and replicas; NaN where no run has the task."""
    error: Floats
    """``(K, T)`` standard error over runs; NaN for fewer than two."""
    common: bool
    """Whether all tasks have the same line, as a number of the method that belongs to no task has."""
    scale: Scale | None
    """That of all panels of the column, but for ``own_scale``."""
    own_scale: bool
    """Whether the panel has a scale of its own, since its lines would flatten all others."""

    @property
    def name(self) -> str:
        """What is shown, e.g. ``weight``."""
        return self.column.removeprefix(OF_METHOD)

    @cached_property
    def spread(self) -> Spread:
        """How the lines lie, where they are too many to be told apart."""
        return spread(self.mean)


VALIDATION = "val_loss"
RISE = "validation loss\nabove lowest, %"
"""In the place of a column, for what is computed from one."""
LEAST_RISE = 1.0
"""Percent that the axis of rises shows at least."""


def loss_panels(section: Section, points: int) -> list[LossPanel]:
    """One for each task; none where nothing was measured. points: at most so many of a line."""
    losses = {id(run): _losses(run) for run in (*section.runs.values(), *section.single.values())}
    if not any(len(steps) for steps, _ in losses.values()):
        return []
    return [_loss_panel(section, place, losses, points) for place in range(len(section.tasks))]


def task_panels(section: Section, column: str, points: int) -> list[TaskPanel]:
    """One for each method that has numbers in a column of its trajectories. points: at most so many of a line.

    Of a method without a finished run, its first failed one is shown.
    """
    found = {method: _task_lines(shown_runs(section, method), column, points) for method in section.methods}
    lines = {method: each for method, each in found.items() if each is not None}
    means = {method: mean for method, (_, mean, _) in lines.items()}
    apart = off_scale(means)
    shares = column.startswith(OF_METHOD)
    common = scale((mean for method, mean in means.items() if method not in apart), shares=shares)
    return [
        TaskPanel(
            method=method,
            column=column,
            steps=steps,
            mean=mean,
            error=error,
            common=shares and alike(mean),
            scale=scale([mean], shares=shares) if method in apart else common,
            own_scale=method in apart,
        )
        for method, (steps, mean, error) in lines.items()
    ]


def rise_panels(section: Section, methods: Sequence[str], points: int) -> list[TaskPanel]:
    """How far each task's validation loss is above its lowest of the run, in percent, one panel for each of some methods.

    The axis ends where the highest loss after its lowest is, so that it shows tasks that turn and not how they began.
    """
    lines = {method: found for method in methods if (found := _rises(section, method, points)) is not None}
    ends = [_highest_after_lowest(own) for _, mean, _ in lines.values() for own in mean]
    shown = Scale(0.0, max([LEAST_RISE, *ends]) * 1.1, logarithmic=False)
    return [TaskPanel(method, RISE, *found, False, shown, False) for method, found in lines.items()]


def _highest_after_lowest(values: Floats) -> float:
    """0 where no value is known."""
    known = values[np.isfinite(values)]
    return float(known[known.argmin() :].max()) if known.size else 0.0


def _rises(section: Section, method: str, points: int) -> tuple[Steps, Floats, Floats] | None:
    steps, values = _together(shown_runs(section, method), VALIDATION)
    complete = np.isfinite(values).all(axis=(0, 2))
    if not complete.any():
        return None
    known = values[:, complete]
    lowest = known.min(axis=1, keepdims=True)
    rises = 100 * (known - lowest) / np.where(lowest == 0, math.nan, np.abs(lowest))
    kept = thin(int(complete.sum()), points)
    lines = [band(rises[:, kept, task]) for task in range(rises.shape[-1])]
    return steps[complete][kept], np.stack([mean for mean, _ in lines]), np.stack([error for _, error in lines])


def probe_columns(section: Section) -> list[str]:
    """The columns of numbers inside the methods that the shown runs have."""
    runs = [run for method in section.methods for run in shown_runs(section, method)]
    return list(dict.fromkeys(name for run in runs for name in run.further_columns if name.startswith(OF_METHOD)))


def shown_runs(section: Section, method: str) -> Sequence[Run]:
    """The method's finished runs, else the first that failed."""
    failed = [run for (name, _), run in sorted(section.runs.items()) if name == method]
    return section.finished(method) or failed[:1]


def thin(length: int, limit: int) -> list[int]:
    """Indices of at most ``limit`` points spread over ``length``, first and last among them."""
    return sorted({round(index) for index in np.linspace(0, length - 1, min(length, limit))}) if length else []


def _losses(run: Run) -> tuple[Steps, Floats]:
    """Steps ``(T,)`` and validation losses ``(T, K)``, mean over replicas."""
    steps, values = run.values(VALIDATION)
    return steps, values.mean(axis=1)


def _loss_panel(section: Section, place: int, losses: Mapping[int, tuple[Steps, Floats]], points: int) -> LossPanel:
    task = section.tasks[place]
    single = [run for seed in section.seeds if (run := section.baseline(task, seed)) is not None]
    lines = [_trace(STL, [losses[id(run)] for run in single], 0, points)]
    failed = []
    for method in section.methods:
        lines.append(_trace(method, [losses[id(run)] for run in section.finished(method)], place, points))
        for seed in section.seeds:
            run = section.runs.get((method, seed))
            if run is not None and run.record.state != "finished":
                failed.append(_until_it_failed(method, *losses[id(run)], place, points))
    traces = [line for line in lines if line is not None]
    ended = [line for line in failed if line is not None]
    # Failed runs of one method are judged one by one.
    named = {line.name: line.mean for line in traces} | {
        f"{line.name}\n{number}": line.mean for number, line in enumerate(ended)
    }
    shown, off = of_losses(named)
    beyond = dict.fromkeys(name.partition("\n")[0] for name in off)
    return LossPanel(task, tuple(traces), tuple(ended), shown, tuple(beyond))


def _trace(name: str, curves: Sequence[tuple[Steps, Floats]], place: int, points: int) -> Trace | None:
    """At the steps at which all runs were evaluated; None where there are none."""
    if not curves:
        return None
    steps = reduce(np.intersect1d, [steps for steps, _ in curves])
    if not len(steps):
        return None
    mean, error = band(np.stack([values[np.isin(own, steps), place] for own, values in curves]))
    kept = thin(len(steps), points)
    return Trace(name, steps[kept], mean[kept], error[kept], len(curves))


def _until_it_failed(name: str, steps: Steps, losses: Floats, place: int, points: int) -> Trace | None:
    known = np.flatnonzero(np.isfinite(losses[:, place]))
    kept = known[thin(len(known), points)]
    if not len(kept):
        return None
    return Trace(name, steps[kept], losses[kept, place], np.full(len(kept), math.nan), 1)


def _task_lines(runs: Sequence[Run], column: str, points: int) -> tuple[Steps, Floats, Floats] | None:
    """Steps ``(T,)``, mean and standard error ``(K, T)`` over runs; None where there is nothing to see."""
    steps, values = _together(runs, column)
    if not np.isfinite(values).any():
        return None
    stacked = np.stack([windows(own, points) for own in values])
    lines = [band(stacked[..., task]) for task in range(stacked.shape[-1])]
    middles = np.asarray(windows(steps.astype(np.float64), points), dtype=np.int64)
    return middles, np.stack([mean for mean, _ in lines]), np.stack([error for _, error in lines])


def _together(runs: Sequence[Run], column: str) -> tuple[Steps, Floats]:
    """A column of several runs at the steps at which all of them have it, those without any left out.

    Returns steps ``(T,)`` and values ``(n, T, K)``, means over the replicas that are there.
    """
    found = [run.values(column) for run in runs if column in run.trajectory]
    found = [(steps, values) for steps, values in found if len(steps)]
    if not found:
        return np.empty(0, dtype=np.int64), np.empty((0, 0, 0))
    shared = reduce(np.intersect1d, [steps for steps, _ in found])
    return shared, np.stack([present_mean(values[np.isin(steps, shared)], 1) for steps, values in found])
