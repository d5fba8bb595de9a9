"""Curves of single tasks under one method: a panel of a line for each task, or of their spread where there are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.analysis.curves import TaskPanel
from benchmarks.analysis.sections import Section
from benchmarks.analysis.spread import MOST_LINES
from benchmarks.records.schema import Floats, Steps
from benchmarks.report.figures import style
from benchmarks.report.palette import COMMON, HALF, MEDIAN, MOST, SPREAD_COLOR, SPREAD_OPACITY, Style, task_styles

WINDOWS = style.POINTS // 2
AVERAGED = f"averaged over windows where more than {WINDOWS} steps were logged"
_COMMON_STYLE = Style("#000000", "", "-")


def titled(section: Section, method: str) -> str:
    """The method, with how many of its seeds finished where that is not all of them."""
    number = len(section.finished(method))
    return method if number == len(section.seeds) else f"{method} ({number}/{len(section.seeds)} seeds)"


def draw(section: Section, panels: Sequence[TaskPanel], titles: Sequence[str], ylabel: str) -> Figure | None:
    """The figure of some panels, each with its title; None where there are none."""
    if not panels:
        return None
    made, axes = style.grid(len(panels), height=1.4)
    styles = task_styles(section.tasks)
    for axis, found, title in zip(axes, panels, titles, strict=True):
        panel(axis, found, section.tasks, styles)
        style.values_axis(axis, found.scale)
        style.steps_axis(axis, section.training.steps)
        style.title(axis, title, "own scale" if found.own_scale else "")
    style.edges(axes, "step", ylabel)
    legend(made, section.tasks, styles, with_common=any(found.common for found in panels))
    return made


def panel(axis: Axes, found: TaskPanel, tasks: Sequence[str], styles: Mapping[str, Style]) -> None:
    """One method."""
    if found.common:
        _line(axis, found.steps, found.mean[0], found.error[0], COMMON, _COMMON_STYLE)
    elif len(tasks) > MOST_LINES:
        _spread(axis, found)
    else:
        for mean, error, task in zip(found.mean, found.error, tasks, strict=True):
            _line(axis, found.steps, mean, error, task, styles[task])


def legend(figure: Figure, tasks: Sequence[str], styles: Mapping[str, Style], *, with_common: bool = False) -> None:
    """Of all panels, below them. with_common: one of them has one line for all tasks."""
    handles: list[Artist]
    if len(tasks) > MOST_LINES:
        # The inner band lies on the outer one, and so is darker than by itself.
        patches = (SPREAD_OPACITY[HALF] + SPREAD_OPACITY[MOST], SPREAD_OPACITY[MOST])
        handles = [
            Line2D([], [], color=SPREAD_COLOR),
            *(Patch(color=SPREAD_COLOR, alpha=alpha, linewidth=0) for alpha in patches),
        ]
        labels = [MEDIAN, HALF, MOST]
    else:
        handles, labels = [Line2D([], [], **styles[task].line) for task in tasks], list(tasks)
    if with_common:
        handles, labels = [*handles, Line2D([], [], **_COMMON_STYLE.line)], [*labels, COMMON]
    style.legend_below(figure, handles, labels)


def _line(axis: Axes, steps: Steps, mean: Floats, error: Floats, label: str, own: Style) -> None:
    # A task that a window lacks has no point there, and its line goes on to the next.
    there = np.isfinite(mean)
    axis.plot(steps[there], mean[there], label=label, **own.line)
    if np.isfinite(error).any():
        axis.fill_between(steps, mean - error, mean + error, color=own.color, alpha=0.2, linewidth=0)


def _spread(axis: Axes, found: TaskPanel) -> None:
    lines = found.spread
    steps = found.steps[lines.known]
    axis.fill_between(steps, *lines.most, color=SPREAD_COLOR, alpha=SPREAD_OPACITY[MOST], linewidth=0)
    axis.fill_between(steps, *lines.half, color=SPREAD_COLOR, alpha=SPREAD_OPACITY[HALF], linewidth=0)
    axis.plot(steps, lines.median, color=SPREAD_COLOR, label=MEDIAN)
