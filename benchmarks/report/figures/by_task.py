"""Curves of single tasks under one method: a panel of a line for each task, or of their spread where there are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from benchmarks.analysis.loading import together
from benchmarks.analysis.sections import Section
from benchmarks.analysis.spread import COLOR, COMMON, HALF, MEDIAN, MOST, MOST_LINES, OPACITY, spread
from benchmarks.analysis.statistics import Floats, band, windows
from benchmarks.records.schema import Run
from benchmarks.report.figures import style
from benchmarks.report.palette import Style

WINDOWS = style.POINTS // 2
AVERAGED = f"averaged over windows where more than {WINDOWS} steps were logged"
_COMMON_COLOR = "#000000"
Curves = tuple[NDArray[np.int64], Floats]
"""Steps ``(T,)`` and mean and standard error over the runs ``(K, 2, T)``."""


def shown_runs(section: Section, method: str) -> Sequence[Run]:
    """The method's finished runs, else the first that failed."""
    failed = [run for (name, _), run in sorted(section.runs.items()) if name == method]
    return section.finished(method) or failed[:1]


def titled(section: Section, method: str) -> str:
    """The method, with how many of its seeds finished where that is not all of them."""
    number = len(section.finished(method))
    return method if number == len(section.seeds) else f"{method} ({number}/{len(section.seeds)} seeds)"


def mean_curves(runs: Sequence[Run], column: str) -> Curves | None:
    """A column of the trajectories, meaned over runs and replicas; None where there is nothing to see."""
    steps, values = together(runs, column)
    if not np.isfinite(values).any():
        return None
    stacked = np.stack([windows(own, WINDOWS) for own in values])
    means = [np.stack(band(stacked[..., task])) for task in range(stacked.shape[-1])]
    return np.asarray(windows(steps.astype(np.float64), WINDOWS), dtype=np.int64), np.stack(means)


def panel(axis: Axes, curves: Curves, tasks: Sequence[str], looks: Mapping[str, Style]) -> Axes:
    """One method."""
    steps, values = curves
    if len(tasks) > MOST_LINES:
        return _spread(axis, steps, values[:, 0])
    for (mean, error), task in zip(values, tasks, strict=True):
        _line(axis, steps, mean, error, task, looks[task])
    return axis


def common(axis: Axes, curves: Curves) -> Axes:
    """One line where all tasks have the same number."""
    steps, values = curves
    _line(axis, steps, values[0, 0], values[0, 1], COMMON, Style(_COMMON_COLOR, "", "-"))
    return axis


def legend(figure: Figure, tasks: Sequence[str], looks: Mapping[str, Style], *, with_common: bool = False) -> None:
    """Of all panels, below them. with_common: one of them has one line for all tasks."""
    handles: list[Artist]
    if len(tasks) > MOST_LINES:
        # The inner band lies on the outer one, and so is darker than by itself.
        patches = (OPACITY[HALF] + OPACITY[MOST], OPACITY[MOST])
        handles = [Line2D([], [], color=COLOR), *(Patch(color=COLOR, alpha=alpha, linewidth=0) for alpha in patches)]
        labels = [MEDIAN, HALF, MOST]
    else:
        handles, labels = [Line2D([], [], **looks[task].line) for task in tasks], list(tasks)
    if with_common:
        handles, labels = [*handles, Line2D([], [], color=_COMMON_COLOR)], [*labels, COMMON]
    style.legend_below(figure, handles, labels)


def _line(axis: Axes, steps: NDArray[np.int64], mean: Floats, error: Floats, label: str, look: Style) -> None:
    # A task that a window lacks has no point there, and its line goes on to the next.
    there = np.isfinite(mean)
    axis.plot(steps[there], mean[there], label=label, **look.line)
    if np.isfinite(error).any():
        axis.fill_between(steps, mean - error, mean + error, color=look.color, alpha=0.2, linewidth=0)


def _spread(axis: Axes, steps: NDArray[np.int64], values: Floats) -> Axes:
    found = spread(values)
    steps = steps[found.known]
    axis.fill_between(steps, *found.most, color=COLOR, alpha=OPACITY[MOST], linewidth=0)
    axis.fill_between(steps, *found.half, color=COLOR, alpha=OPACITY[HALF], linewidth=0)
    axis.plot(steps, found.median, color=COLOR, label=MEDIAN)
    return axis
