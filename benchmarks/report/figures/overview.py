"""What a method buys and what it costs: Delta-m against seconds per step, one panel per problem."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.analysis.scores import DELTA_METRICS, DELTA_TASKS
from benchmarks.analysis.section_tables import RELATIVE, SectionTables
from benchmarks.analysis.table import ERROR
from benchmarks.report.figures import style
from benchmarks.report.palette import Style

CAPTION = (
    "Δm against the seconds per step relative to uniform; lower is better on both axes, the line at 0 is single-task "
    "training. Filled: mean over metrics, with its standard error over seeds; hollow, where it differs: mean over tasks. "
    "In a grey strip: methods that lack a uniform run trained beside them, and so a cost."
)


def figure(tables: Sequence[SectionTables], styles: Mapping[str, Style]) -> Figure | None:
    """All problems that have a Delta-m and a uniform run to compare the cost with, or None if there is no such problem."""
    frames = [(each.scores.section.name, each.overview.frame) for each in tables]
    shown = [(name, frame) for name, frame in frames if _complete(frame)]
    if not shown:
        return None
    made, axes = style.grid(len(shown), height=1.8)
    present: list[str] = []
    for axis, (name, frame) in zip(axes, shown, strict=True):
        panel(axis, frame, styles)
        style.title(axis, name)
        present += [method for method in frame["method"] if method not in present]
    style.edges(axes, "s/step relative to uniform", "Δm %  (lower is better)")
    handles = [
        Line2D([], [], marker=styles[method].marker, color=styles[method].color, linestyle="", markersize=4.5)
        for method in present
    ]
    style.legend_below(made, handles, present)
    return made


def panel(axis: Axes, frame: pd.DataFrame, styles: Mapping[str, Style]) -> Axes:
    """One problem. frame: an overview table's, see ``tables``."""
    axis.axhline(0, color="#555555", linewidth=0.8, linestyle=(0, (1, 1.6)), zorder=1)
    rows = [row for row in frame.to_dict("records") if math.isfinite(float(row[DELTA_METRICS]))]
    for row in rows:
        if math.isfinite(cost := float(row[RELATIVE.key])):
            _method(axis, row, cost, styles[str(row["method"])])
    axis.margins(0.12)
    if uncosted := [row for row in rows if not math.isfinite(float(row[RELATIVE.key]))]:
        place = _strip(axis, "?")
        for row in uncosted:
            _method(axis, row, place, styles[str(row["method"])])
    if absent := [str(method) for method in frame["method"][~np.isfinite(frame[DELTA_METRICS].astype(float))]]:
        text = "no Δm: " + ",\n".join(absent)
        axis.text(0.98, 0.03, text, transform=axis.transAxes, ha="right", va="bottom", fontsize=7, color="#444444")
    return axis


def _method(axis: Axes, row: Mapping[Hashable, Any], cost: float, own: Style) -> None:
    """One method at its cost, or in the strip of those whose cost is not known."""
    metrics, tasks = float(row[DELTA_METRICS]), float(row[DELTA_TASKS])
    if not math.isclose(metrics, tasks, rel_tol=1e-6):
        axis.plot([cost, cost], [metrics, tasks], color=own.color, linewidth=0.5, zorder=2)
        axis.plot(cost, tasks, marker=own.marker, markerfacecolor="white", color=own.color, markersize=4, zorder=2.5)
    error = row.get(DELTA_METRICS + ERROR, math.nan)
    axis.errorbar(cost, metrics, yerr=None if math.isnan(error) else error, color=own.color, linewidth=0.8, zorder=2.2)
    axis.plot(cost, metrics, marker=own.marker, color=own.color, markersize=4.5, label=row["method"], linestyle="", zorder=3)


def _strip(axis: Axes, text: str) -> float:
    """Room for more at the right, apart from the scale, under a name of its own; where its middle is."""
    low, high = axis.get_xlim()
    width = 0.12 * (high - low)
    axis.axvspan(high, high + width, color="#f0f0f0", linewidth=0, zorder=0)
    # A number at the very end would run into the strip's name.
    ticks = [tick for tick in axis.get_xticks() if low <= tick <= high - width / 4]
    middle = high + width / 2
    axis.set_xticks([*ticks, middle], labels=[*(f"{tick:g}" for tick in ticks), text])
    axis.set_xlim(low, high + width)
    return middle


def _complete(frame: pd.DataFrame) -> bool:
    return bool(frame[[DELTA_METRICS, RELATIVE.key]].notna().all(axis=1).any()) if RELATIVE.key in frame else False
