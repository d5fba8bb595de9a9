"""Charts of one method with a line for each task, or with their spread where there are many."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from benchmarks.analysis.curves import TaskPanel
from benchmarks.analysis.sections import Section
from benchmarks.analysis.spread import MOST_LINES
from benchmarks.report.html.chart import POINTS, Chart, layout, numbers, text
from benchmarks.report.html.plotly_style import Key, band_key, curve_key, line
from benchmarks.report.palette import COMMON, DASHES, HALF, MEDIAN, MOST, SPREAD_COLOR, SPREAD_OPACITY, Style, task_styles

_LINE = Style("#000000", "", DASHES[0])
"""Seen on every band, and in both themes."""


def by_task_chart(section: Section, found: TaskPanel, title: str) -> Chart:
    """A number of every task under one method."""
    figure = go.Figure()
    layout(figure, "step", found.name, hovermode="x unified")
    figure.update_layout(meta={"method": found.method})
    draw = _common if found.common else _spread if len(section.tasks) > MOST_LINES else _lines
    keys = draw(figure, section.tasks, found)
    caption = f"{section.name}: mean over seeds and replicas, in at most {POINTS} windows of steps."
    if draw is _spread:
        caption += " So many tasks are shown by their spread; under the pointer the highest and the lowest are named."
    return Chart(title, caption, keys, figure.to_plotly_json())


def _common(figure: go.Figure, tasks: Sequence[str], found: TaskPanel) -> tuple[Key, ...]:
    figure.add_scatter(x=numbers(found.steps), y=numbers(found.mean[0]), name=COMMON, mode="lines", line=line(_LINE))
    return (curve_key(COMMON, _LINE, None),)


def _lines(figure: go.Figure, tasks: Sequence[str], found: TaskPanel) -> tuple[Key, ...]:
    styles = task_styles(tasks)
    x = numbers(found.steps)
    for own, task in zip(found.mean, tasks, strict=True):
        figure.add_scatter(x=x, y=numbers(own), name=text(task), mode="lines", line=line(styles[task]))
    return tuple(curve_key(task, styles[task], None) for task in tasks)


def _spread(figure: go.Figure, tasks: Sequence[str], found: TaskPanel) -> tuple[Key, ...]:
    lines = found.spread
    x = numbers(found.steps[lines.known])
    for name, (low, high) in ((MOST, lines.most), (HALF, lines.half)):
        figure.add_scatter(
            x=[*x, *reversed(x)],
            y=numbers([*low, *reversed(high)]),
            mode="lines",
            fill="toself",
            fillcolor=SPREAD_COLOR,
            line={"width": 0},
            opacity=SPREAD_OPACITY[name],
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=x,
        y=numbers(lines.median),
        name=MEDIAN,
        mode="lines",
        line=line(_LINE),
        text=_ends(tasks, found),
        hovertemplate="%{y}<br>%{text}",
    )
    # The inner band lies on the outer one, and so is darker than by itself.
    bands = ((HALF, SPREAD_OPACITY[HALF] + SPREAD_OPACITY[MOST]), (MOST, SPREAD_OPACITY[MOST]))
    return (curve_key(MEDIAN, _LINE, None), *(band_key(name, SPREAD_COLOR, opacity) for name, opacity in bands))


def _ends(tasks: Sequence[str], found: TaskPanel) -> list[str]:
    """At every point the tasks with the highest and the lowest value."""
    values = found.mean[:, found.spread.known].T
    ends = zip(values, *found.spread.ends, strict=True)
    return [
        "<br>".join(
            f"{name}: {text(tasks[place])} ({own[place]:.4g})" for name, place in (("highest", high), ("lowest", low))
        )
        for own, low, high in ends
    ]
