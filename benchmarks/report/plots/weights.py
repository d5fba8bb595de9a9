"""Weights over the steps: one panel per method, one line per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from benchmarks.record import Run
from benchmarks.analysis.loading import cube
from benchmarks.report.palette import Style, task_styles
from benchmarks.report.plots import style
from benchmarks.report.scales import off_scale, scale
from benchmarks.analysis.sections import Section
from benchmarks.analysis.statistics import Floats, band, present_mean, windows

CAPTION = (
    f"Coefficients of the raw losses, averaged over windows where more than {style.POINTS // 2} steps were logged: mean over "
    "seeds (and replicas), band ± standard error over seeds. Panels share their axis unless they say otherwise."
)
MOST_LINES = 12
"""More tasks than this are shown by how their weights are spread: so many lines cannot be told apart."""
SPREAD_COLOR = "#31688e"
SPREAD_LABELS = ("median over tasks", "middle half of the tasks", "middle nine tenths")
Curves = tuple[NDArray[np.int64], Floats]


def figure(section: Section) -> Figure | None:
    """All methods of a section, or None if no weight was logged."""
    curves: dict[str, Curves] = {}
    for method in section.methods:
        shown = section.finished(method) or [run for (name, _), run in sorted(section.runs.items()) if name == method][:1]
        found = _mean_curves(shown)
        if found is not None:
            curves[method] = found
    if not curves:
        return None
    made, axes = style.grid(len(curves), height=1.4)
    looks = task_styles(section.tasks)
    # One far-off method must not flatten the others: it gets a scale of its own.
    own = off_scale({method: values[:, 0] for method, (_, values) in curves.items()})
    common = [values[:, 0] for method, (_, values) in curves.items() if method not in own]
    for axis, (method, found) in zip(axes, curves.items(), strict=True):
        panel(axis, found, section.tasks, looks)
        style.values_axis(axis, scale([found[1][:, 0]] if method in own else common))
        style.steps_axis(axis, section.training.steps)
        number = len(section.finished(method))
        rest = "" if number == len(section.seeds) else f" ({number}/{len(section.seeds)} seeds)"
        style.title(axis, method + rest, "own scale" if method in own else "")
    style.edges(axes, "step", "weight")
    if len(section.tasks) > MOST_LINES:
        style.legend_below(made, _spread_handles(), SPREAD_LABELS)
    else:
        style.legend_below(made, [Line2D([], [], **looks[task].line) for task in section.tasks], section.tasks)
    return made


def _spread_handles() -> list[Artist]:
    return [
        Line2D([], [], color=SPREAD_COLOR),
        Patch(color=SPREAD_COLOR, alpha=0.5, linewidth=0),
        Patch(color=SPREAD_COLOR, alpha=0.2, linewidth=0),
    ]


def panel(axis: Axes, curves: Curves, tasks: Sequence[str], looks: Mapping[str, Style]) -> Axes:
    """One method. curves: steps ``(T,)`` and mean and standard error ``(K, 2, T)``."""
    steps, values = curves
    if len(tasks) > MOST_LINES:
        return _spread(axis, steps, values[:, 0])
    for (mean, error), task in zip(values, tasks, strict=True):
        # A task that a window lacks has no point there, and its line goes on to the next.
        there = np.isfinite(mean)
        axis.plot(steps[there], mean[there], label=task, **looks[task].line)
        if np.isfinite(error).any():
            axis.fill_between(steps, mean - error, mean + error, color=looks[task].color, alpha=0.2, linewidth=0)
    return axis


def _spread(axis: Axes, steps: NDArray[np.int64], values: Floats) -> Axes:
    """How the weights of many tasks lie: median, middle half and middle nine tenths. values: ``(K, T)``."""
    there = np.isfinite(values).any(axis=0)
    low, quarter, middle, three, high = np.nanquantile(values[:, there], (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
    axis.fill_between(steps[there], low, high, color=SPREAD_COLOR, alpha=0.2, linewidth=0)
    axis.fill_between(steps[there], quarter, three, color=SPREAD_COLOR, alpha=0.35, linewidth=0)
    axis.plot(steps[there], middle, color=SPREAD_COLOR)
    return axis


def _mean_curves(runs: Sequence[Run]) -> Curves | None:
    """Steps ``(T,)`` and mean and standard error over the runs ``(K, 2, T)``."""
    found = [cube(run, "weight") for run in runs]
    if not found or not all(len(steps) for steps, _ in found):
        return None
    length = min(len(steps) for steps, _ in found)
    stacked = np.stack([windows(present_mean(values[:length], 1), style.POINTS // 2) for _, values in found])
    steps = windows(found[0][0][:length].astype(np.float64), style.POINTS // 2)
    return np.asarray(steps, dtype=np.int64), np.stack([np.stack(band(stacked[..., task])) for task in range(stacked.shape[-1])])
