"""Settings of one method side by side: a row for each, a panel for each measure, its default as a line."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.analysis.ablation import MEASURES
from benchmarks.analysis.section_tables import SectionTables
from benchmarks.analysis.table import ERROR, Column
from benchmarks.report.figures import style
from benchmarks.report.palette import Style

CAPTION = (
    "Settings of one method: mean and standard error over seeds, small dots are the seeds; lower is better everywhere. "
    "The vertical line is the method's own base setting, the hollow mark in its first row."
)
ROW_HEIGHT = 0.17


def figure(tables: SectionTables, styles: Mapping[str, Style]) -> Figure | None:
    """The picture of a section's settings table, or None where there is none."""
    table, runs = tables.settings, tables.scores.methods
    if table is None:
        return None
    shown = [column for column in MEASURES if column.key in {one.key for one in table.columns}]
    rows = [{str(key): value for key, value in row.items()} for row in table.frame.to_dict("records")]
    places = _places([str(row["method"]) for row in rows])
    made = Figure(figsize=(style.DOUBLE, 0.75 + ROW_HEIGHT * (places[-1] + 1)), layout="constrained")
    FigureCanvasAgg(made)
    axes = [made.add_subplot(1, len(shown), index + 1) for index in range(len(shown))]
    for axis, column in zip(axes, shown, strict=True):
        _panel(axis, rows, places, runs, column, styles)
    names = [
        f"{row['method']}  {row['setting']}" if first else str(row["setting"])
        for row, first in zip(rows, _firsts(rows), strict=True)
    ]
    axes[0].set_yticks(places, names)
    return made


def _panel(
    axis: Axes,
    rows: list[dict[str, object]],
    places: list[float],
    runs: pd.DataFrame,
    column: Column,
    styles: Mapping[str, Style],
) -> None:
    base, color = math.nan, ""
    for row, place, first in zip(rows, places, _firsts(rows), strict=True):
        color = styles[str(row["label"])].color if first else color
        mean, error = float(str(row[column.key])), float(str(row[column.key + ERROR]))
        if first:
            base = mean
            count = sum(other["method"] == row["method"] for other in rows)
            axis.plot([base, base], [place - 0.4, place + count - 0.6], color=color, linewidth=0.8, linestyle=(0, (1, 1.2)))
        seeds = runs.loc[runs["method"] == row["label"], column.key]
        axis.plot(seeds, [place] * len(seeds), ".", color="#9A9A9A", markersize=2.5, zorder=2)
        bar = None if math.isnan(error) else error
        face = "white" if first else color
        axis.errorbar(mean, place, xerr=bar, marker="o", color=color, markerfacecolor=face, markersize=4, zorder=3)
    axis.set_ylim(places[-1] + 0.7, -0.7)
    axis.set_yticks(places, [""] * len(places))
    axis.set_xlabel(column.header)


def _firsts(rows: list[dict[str, object]]) -> list[bool]:
    """Which rows open a method: its base setting."""
    methods = [row["method"] for row in rows]
    return [index == 0 or methods[index - 1] != method for index, method in enumerate(methods)]


def _places(methods: list[str]) -> list[float]:
    """Heights of the rows, with half a row between methods."""
    places, height = [], -1.0
    for index, method in enumerate(methods):
        height += 1.0 if index == 0 or methods[index - 1] == method else 1.6
        places.append(height)
    return places
