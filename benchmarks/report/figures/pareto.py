"""The Pareto front of static weights, with the methods' points: one panel for each pair of metrics."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.analysis.pareto import front_line
from benchmarks.analysis.section_tables import SectionTables
from benchmarks.records.schema import MetricInfo
from benchmarks.report.figures import style
from benchmarks.report.palette import Style

MOST_PANELS = 10
"""Pairs of five metrics; of more, the table alone says more than a wall of panels."""

CAPTION = (
    "Test metrics under static weights (grey) and under the methods, means over seeds. Line: the front of the static "
    "weights in the two metrics of the panel; the arrow heads of the axes' names point to the better side. Filled grey "
    "points are on the front over all metrics."
)


def figure(tables: SectionTables, styles: Mapping[str, Style]) -> Figure | None:
    """One panel per pair of the judged metrics; None where the simplex was not covered or there are too many pairs."""
    table, pairs = tables.front, list(itertools.combinations(tables.scores.judged, 2))
    if table is None or not pairs or len(pairs) > MOST_PANELS:
        return None
    made, axes = style.grid(len(pairs), height=1.9)
    for axis, (first, second) in zip(axes, pairs, strict=True):
        panel(axis, table.frame, first, second, styles)
    methods = [str(name) for name in table.frame.loc[table.frame["kind"] == "method", "label"]]
    handles = [Line2D([], [], marker="o", color="#8a8a8a", linestyle="-", markersize=3, linewidth=0.8)]
    handles += [
        Line2D([], [], marker=styles[name].marker, color=styles[name].color, linestyle="", markersize=4.5)
        for name in methods
    ]
    style.legend_below(made, handles, ["static weights", *methods])
    return made


def panel(axis: Axes, frame: pd.DataFrame, first: MetricInfo, second: MetricInfo, styles: Mapping[str, Style]) -> None:
    """Two metrics. frame: of ``front_table``."""
    static = frame[frame["kind"] == "static"]
    points = static[[first.key, second.key]].to_numpy(np.float64)
    on_front = static["on_front"].to_numpy(bool)
    axis.plot(*points[~on_front].T, "o", markerfacecolor="white", color="#8a8a8a", markersize=3, zorder=2)
    axis.plot(*points[on_front].T, "o", color="#8a8a8a", markersize=3, zorder=2)
    axis.plot(*front_line(frame, first, second).T, color="#8a8a8a", linewidth=0.8, zorder=1)
    for row in frame[frame["kind"] == "method"].to_dict("records"):
        own = styles[str(row["label"])]
        axis.plot(
            row[first.key],
            row[second.key],
            marker=own.marker,
            color=own.color,
            markersize=4.5,
            linestyle="",
            zorder=3,
        )
    axis.set_xlabel(f"{first.key} {'→' if first.higher_is_better else '←'}")
    axis.set_ylabel(f"{second.key} {'→' if second.higher_is_better else '←'}")
    axis.margins(0.08)
