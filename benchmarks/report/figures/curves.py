"""Validation loss over the steps: one panel per task, one line per method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.analysis.curves import LossPanel, Trace, loss_panels
from benchmarks.analysis.sections import STL, Section
from benchmarks.report.figures import by_task, style
from benchmarks.report.palette import STL_STYLE, Style

CAPTION = (
    "Validation loss of each task: mean over seeds (and replicas), band ± standard error over seeds. A cross ends a run "
    "that failed; such runs are in no mean. Panels show the range of the methods after the first tenth of the "
    "run, in which all fall alike."
)


def figure(section: Section, styles: Mapping[str, Style]) -> Figure | None:
    """All tasks of a section, or None if nothing was measured."""
    panels = loss_panels(section, style.POINTS)
    if not panels:
        return None
    made, axes = style.grid(len(panels))
    for axis, found in zip(axes, panels, strict=True):
        panel(axis, found, section, styles)
    style.edges(axes, "step", "validation loss")
    handles, labels = _legend(section, styles)
    style.legend_below(made, handles, labels)
    return made


def panel(axis: Axes, found: LossPanel, section: Section, styles: Mapping[str, Style]) -> Axes:
    """One task: a line and a band per method, a thin line for its failed runs, a dotted one for single-task training."""
    for trace in found.traces:
        if trace.name == STL:
            axis.plot(trace.steps, trace.mean, label=STL, linewidth=0.9, zorder=1.5, **STL_STYLE.line)
        else:
            _method_line(axis, trace, styles[trace.name], section.methods.index(trace.name))
    for trace in found.failed:
        _failed_line(axis, trace, styles[trace.name])
    style.values_axis(axis, found.scale)
    style.steps_axis(axis, section.training.steps)
    style.title(axis, found.task, f"off scale: {', '.join(found.beyond)}" if found.beyond else "")
    return axis


def _method_line(axis: Axes, trace: Trace, own: Style, index: int) -> None:
    every = max(1, len(trace.steps) // 4)
    # Marks of methods that run together must not sit on each other.
    marks = (index * every // 9 % every, every)
    signs: dict[str, Any] = {"marker": own.marker, "markevery": marks, "markeredgewidth": 0}
    axis.plot(trace.steps, trace.mean, label=trace.name, zorder=2.5, **signs, **own.line)
    if trace.runs > 1:
        ends = (trace.mean - trace.error, trace.mean + trace.error)
        axis.fill_between(trace.steps, *ends, color=own.color, alpha=0.18, linewidth=0, zorder=2)


def _failed_line(axis: Axes, trace: Trace, own: Style) -> None:
    axis.plot(trace.steps, trace.mean, label=f"_failed {trace.name}", linewidth=0.7, zorder=2.2, **own.line)
    cross: dict[str, Any] = {"marker": "x", "markersize": 4, "markeredgewidth": 1.0, "color": own.color}
    axis.plot(trace.steps[-1:], trace.mean[-1:], label="_end", zorder=3, **cross)


def _legend(section: Section, styles: Mapping[str, Style]) -> tuple[list[Line2D], list[str]]:
    handles, labels = [], []
    for method in section.methods:
        own = styles[method]
        handles.append(Line2D([], [], marker=own.marker, markeredgewidth=0, **own.line))
        labels.append(by_task.titled(section, method))
    if section.single:
        handles.append(Line2D([], [], linewidth=0.9, **STL_STYLE.line))
        labels.append(STL)
    return handles, labels
