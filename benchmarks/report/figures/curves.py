"""Validation loss over the steps: one panel per task, one line per method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from benchmarks.analysis.scales import of_losses
from benchmarks.analysis.sections import STL, Section
from benchmarks.analysis.statistics import Floats, band
from benchmarks.records.schema import Run
from benchmarks.report.figures import by_task, style
from benchmarks.report.palette import STL_STYLE, Style

CAPTION = (
    "Validation loss of each task: mean over seeds (and replicas), band ± standard error over seeds. A cross ends a run "
    "that failed; such runs are in no mean. Panels show the range of the methods after the first tenth of the "
    "run, in which all fall alike."
)
Curve = tuple[NDArray[np.int64], Floats]


def figure(section: Section, styles: Mapping[str, Style]) -> Figure | None:
    """All tasks of a section, or None if nothing was measured."""
    losses = {id(run): _losses(run) for run in (*section.runs.values(), *section.single.values())}
    if not any(len(steps) for steps, _ in losses.values()):
        return None
    made, axes = style.grid(len(section.tasks))
    for axis, task in zip(axes, section.tasks, strict=True):
        panel(axis, section, task, styles, losses)
    style.edges(axes, "step", "validation loss")
    handles, labels = _legend(section, styles)
    style.legend_below(made, handles, labels)
    return made


def panel(
    axis: Axes, section: Section, task: str, styles: Mapping[str, Style], losses: Mapping[int, Curve] | None = None
) -> Axes:
    """One task: a line and a band per method, a thin line for its failed runs, a dotted one for single-task training."""
    known = losses or {id(run): _losses(run) for run in (*section.runs.values(), *section.single.values())}
    drawn: dict[str, Floats] = {}
    single = [run for seed in section.seeds if (run := section.baseline(task, seed)) is not None]
    if single:
        steps, values = _stack([known[id(run)] for run in single], 0)
        if len(steps):
            drawn[STL] = band(values)[0]
            axis.plot(steps, drawn[STL], label=STL, linewidth=0.9, zorder=1.5, **STL_STYLE.line)
    for index, method in enumerate(section.methods):
        finished = section.finished(method)
        place = section.tasks.index(task)
        if finished:
            steps, values = _stack([known[id(run)] for run in finished], place)
            if len(steps):
                drawn[method] = _method_line(axis, method, steps, values, styles[method], index)
        for seed in section.seeds:
            run = section.runs.get((method, seed))
            if run is not None and run.record.state != "finished":
                drawn |= _failed_line(axis, run, method, known[id(run)], place, styles[method])
    shown, off = of_losses(drawn)
    style.values_axis(axis, shown)
    style.steps_axis(axis, section.training.steps)
    beyond = ", ".join(dict.fromkeys(name.split("\n")[0] for name in off))
    style.title(axis, task, f"off scale: {beyond}" if off else "")
    return axis


def _losses(run: Run) -> Curve:
    """Steps ``(T,)`` and validation losses ``(T, K)``, mean over replicas."""
    steps, values = run.values("val_loss")
    keep = style.thin(len(steps)) if len(steps) else []
    return steps[keep], values[keep].mean(axis=1)


def _stack(curves: list[Curve], place: int) -> Curve:
    """Steps that all runs were evaluated at and their losses ``(runs, T)`` on one task."""
    steps = curves[0][0]
    for other, _ in curves[1:]:
        steps = np.intersect1d(steps, other)
    return steps, np.stack([values[np.isin(own, steps), place] for own, values in curves])


def _method_line(axis: Axes, method: str, steps: NDArray[np.int64], values: Floats, look: Style, index: int) -> Floats:
    mean, error = band(values)
    every = max(1, len(steps) // 4)
    # Marks of methods that run together must not sit on each other.
    marks = (index * every // 9 % every, every)
    axis.plot(steps, mean, label=method, marker=look.marker, markevery=marks, zorder=2.5, markeredgewidth=0, **look.line)
    if len(values) > 1:
        axis.fill_between(steps, mean - error, mean + error, color=look.color, alpha=0.18, linewidth=0, zorder=2)
    return mean


def _failed_line(axis: Axes, run: Run, method: str, curve: Curve, place: int, look: Style) -> dict[str, Floats]:
    steps, values = curve
    known = np.isfinite(values[:, place])
    if not known.any():
        return {}
    steps, losses = steps[known], values[known, place]
    axis.plot(steps, losses, label=f"_failed {method}", linewidth=0.7, zorder=2.2, **look.line)
    axis.plot(
        steps[-1:], losses[-1:], label="_end", marker="x", markersize=4, markeredgewidth=1.0, color=look.color, zorder=3
    )
    return {f"{method}\n{run.seed}": losses}


def _legend(section: Section, styles: Mapping[str, Style]) -> tuple[list[Line2D], list[str]]:
    handles, labels = [], []
    for method in section.methods:
        look = styles[method]
        handles.append(Line2D([], [], marker=look.marker, markeredgewidth=0, **look.line))
        labels.append(by_task.titled(section, method))
    if section.single:
        handles.append(Line2D([], [], linewidth=0.9, **STL_STYLE.line))
        labels.append(STL)
    return handles, labels
