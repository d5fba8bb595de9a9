"""Charts of one method with a line for each task, or with their spread where there are many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go

from benchmarks.analysis.loading import together
from benchmarks.analysis.sections import Section
from benchmarks.analysis.spread import COLOR, COMMON, HALF, MEDIAN, MOST, MOST_LINES, OPACITY, alike, spread
from benchmarks.analysis.statistics import Floats, present_mean, windows
from benchmarks.records.schema import OF_METHOD
from benchmarks.report.html.chart import POINTS, Chart, layout, numbers, text
from benchmarks.report.html.plotly_style import Key, band_key, curve_key, line
from benchmarks.report.palette import DASHES, Style, task_styles

_LINE = Style("#000000", "", DASHES[0])
"""Seen on every band, and in both themes."""


def by_task_chart(section: Section, method: str, column: str, axis: str, title: str) -> Iterator[Chart]:
    """A column of the trajectories of a method's finished runs; none where there is nothing to see."""
    steps, values = together(section.finished(method), column)
    if not np.isfinite(values).any():
        return
    mean = windows(present_mean(values, 0), POINTS).T
    places = windows(steps.astype(float), POINTS)
    figure = go.Figure()
    layout(figure, "step", axis, hovermode="x unified")
    figure.update_layout(meta={"method": method})
    draw = _spread if len(section.tasks) > MOST_LINES else _lines
    if column.startswith(OF_METHOD) and alike(mean):
        draw = _common
    keys = draw(figure, section.tasks, places, mean)
    caption = f"{section.name}: mean over seeds and replicas, in at most {POINTS} windows of steps."
    if draw is _spread:
        caption += " So many tasks are shown by their spread; under the pointer the highest and the lowest are named."
    yield Chart(title, caption, keys, figure.to_plotly_json())


def _common(figure: go.Figure, tasks: Sequence[str], steps: Floats, values: Floats) -> tuple[Key, ...]:
    figure.add_scatter(x=numbers(steps), y=numbers(values[0]), name=COMMON, mode="lines", line=line(_LINE))
    return (curve_key(COMMON, _LINE, None),)


def _lines(figure: go.Figure, tasks: Sequence[str], steps: Floats, values: Floats) -> tuple[Key, ...]:
    looks = task_styles(tasks)
    for own, task in zip(values, tasks, strict=True):
        figure.add_scatter(x=numbers(steps), y=numbers(own), name=text(task), mode="lines", line=line(looks[task]))
    return tuple(curve_key(task, looks[task], None) for task in tasks)


def _spread(figure: go.Figure, tasks: Sequence[str], steps: Floats, values: Floats) -> tuple[Key, ...]:
    found = spread(values)
    x = numbers(steps[found.known])
    for name, (low, high) in ((MOST, found.most), (HALF, found.half)):
        figure.add_scatter(
            x=[*x, *reversed(x)],
            y=numbers([*low, *reversed(high)]),
            mode="lines",
            fill="toself",
            fillcolor=COLOR,
            line={"width": 0},
            opacity=OPACITY[name],
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=x,
        y=numbers(found.median),
        name=MEDIAN,
        mode="lines",
        line=line(_LINE),
        text=_ends(tasks, values[:, found.known]),
        hovertemplate="%{y}<br>%{text}",
    )
    # The inner band lies on the outer one, and so is darker than by itself.
    bands = ((HALF, OPACITY[HALF] + OPACITY[MOST]), (MOST, OPACITY[MOST]))
    return (curve_key(MEDIAN, _LINE, None), *(band_key(name, COLOR, opacity) for name, opacity in bands))


def _ends(tasks: Sequence[str], values: Floats) -> list[str]:
    """At every point the tasks with the highest and the lowest value: what a spread does not say."""
    found = []
    for point in np.where(np.isfinite(values), values, np.nan).T:
        ends = (("highest", int(np.nanargmax(point))), ("lowest", int(np.nanargmin(point))))
        found.append("<br>".join(f"{name}: {text(tasks[place])} ({point[place]:.4g})" for name, place in ends))
    return found
