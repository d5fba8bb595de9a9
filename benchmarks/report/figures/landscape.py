"""Paths over a problem's landscape: one panel per method, one path per replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.analysis.curves import thin
from benchmarks.analysis.landscape import Ground, landscape_of
from benchmarks.analysis.sections import Section
from benchmarks.records.schema import Run
from benchmarks.report.figures import style
from benchmarks.report.palette import Style

CAPTION = (
    "Paths from the starting points (hollow) to the last step (filled) over the mean of both losses; thick: Pareto front."
)
_PATH_POINTS = 120
_FRONT = "#A79BE0"


def figure(section: Section, styles: Mapping[str, Style]) -> Figure | None:
    """The methods of a section at its lowest seed; None for a problem without a landscape."""
    ground = landscape_of(section)
    if ground is None:
        return None
    shown = {method: run for method in section.methods if (run := ground.run_of(section, method)) is not None}
    if not shown:
        return None
    made, axes = style.grid(len(shown), square=True)
    for axis, (method, run) in zip(axes, shown.items(), strict=True):
        panel(axis, run, styles[method].color, ground)
        style.title(axis, method, "" if run.record.state == "finished" else run.record.state.replace("_", " "))
    style.edges(axes, *ground.axes)
    marks: dict[str, Any] = {"markersize": 4, "color": "#333333", "linestyle": ""}
    handles = [
        Line2D([], [], color="#333333"),
        Line2D([], [], marker="o", markerfacecolor="white", **marks),
        Line2D([], [], marker="o", **marks),
        Line2D([], [], color=_FRONT, linewidth=3.5),
        Line2D([], [], color="#B5B5B5", linewidth=0.6),
    ]
    style.legend_below(made, handles, ["path", "start", "end", "Pareto front", "equal mean loss"])
    return made


def panel(axis: Axes, run: Run, color: str, ground: Ground) -> Axes:
    """One method."""
    lines: dict[str, Any] = {
        "levels": ground.levels,
        "colors": "#BDBDBD",
        "linewidths": 0.5,
        "linestyles": "solid",
        "zorder": 1,
    }
    axis.contour(ground.places, ground.places, ground.losses, **lines)
    front = ground.front
    axis.plot(front[:, 0], front[:, 1], color=_FRONT, linewidth=3.5, solid_capstyle="butt", zorder=1.5, label="_front")
    for path in ground.paths(run):
        drawn = path[thin(len(path), _PATH_POINTS)]
        axis.plot(drawn[:, 0], drawn[:, 1], color=color, linewidth=1.0, zorder=2.5, label="_path")
        axis.plot(*drawn[0], marker="o", markersize=4, markerfacecolor="white", color=color, zorder=3, label="_start")
        axis.plot(*drawn[-1], marker="o", markersize=4, color=color, zorder=3.5, clip_on=False, label="_end")
    ends = (ground.places[0], ground.places[-1])
    ticks = tuple(int(ends[1]) * sign for sign in (-1, 0, 1))
    axis.set(xlim=ends, ylim=ends, aspect="equal", xticks=ticks, yticks=ticks)
    axis.grid(visible=False)
    return axis
