"""The paths of ``famo_toy`` over its landscape: one panel per method, one path per start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.record import Run
from benchmarks.report.palette import Style
from benchmarks.report.plots import style
from benchmarks.analysis.sections import Section
from benchmarks.analysis.statistics import Floats

CAPTION = "Paths from the starting points (hollow) to the last step (filled) over the mean of both losses; thick: Pareto front."
PROBLEM = "famo_toy"
PROBES = ("probe.a", "probe.b")
REACH = 10.5
"""The region shown, in both directions."""
_CELLS = 90
_PATH_POINTS = 120
_FRONT = "#A79BE0"


def figure(section: Section, styles: Mapping[str, Style]) -> Figure | None:
    """The methods of a ``famo_toy`` section at its lowest seed; None for any other problem."""
    shown = {method: run for method in section.methods if (run := _first(section, method)) is not None}
    if section.problem.name != PROBLEM or not shown:
        return None
    made, axes = style.grid(len(shown), square=True)
    heights, front = _landscape(), _front()
    for axis, (method, run) in zip(axes, shown.items(), strict=True):
        panel(axis, run, styles[method], heights, front)
        style.title(axis, method, "" if run.record.state == "finished" else run.record.state.replace("_", " "))
    style.edges(axes, "a", "b")
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


def panel(axis: Axes, run: Run, look: Style, heights: tuple[Floats, Floats], front: Floats) -> Axes:
    """One method. heights: places ``(n,)`` along either axis and the mean loss there ``(n, n)``; front: ``(m, 2)``."""
    places, mean = heights
    levels = np.quantile(mean, np.linspace(0.03, 0.97, 9))
    axis.contour(places, places, mean, levels=levels, colors="#BDBDBD", linewidths=0.5, linestyles="solid", zorder=1)
    axis.plot(front[:, 0], front[:, 1], color=_FRONT, linewidth=3.5, solid_capstyle="butt", zorder=1.5, label="_front")
    for path in paths(run):
        axis.plot(path[:, 0], path[:, 1], color=look.color, linewidth=1.0, zorder=2.5, label="_path")
        axis.plot(*path[0], marker="o", markersize=4, markerfacecolor="white", color=look.color, zorder=3, label="_start")
        axis.plot(*path[-1], marker="o", markersize=4, color=look.color, zorder=3.5, clip_on=False, label="_end")
    axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=(-10, 0, 10), yticks=(-10, 0, 10))
    axis.grid(visible=False)
    return axis


def paths(run: Run) -> list[Floats]:
    """Places ``(T, 2)`` over the steps, one array per replica."""
    table = run.trajectory.loc[run.trajectory["task"] == run.record.tasks[0], ["step", "replica", *PROBES]].dropna()
    found = []
    for _, rows in table.sort_values("step").groupby("replica"):
        points = rows[list(PROBES)].to_numpy(np.float64)
        found.append(points[style.thin(len(points), _PATH_POINTS)])
    return found


def _first(section: Section, method: str) -> Run | None:
    """The method's run of the lowest seed that has a path; a finished one if there is any."""
    runs = section.finished(method) or [run for (name, _), run in sorted(section.runs.items()) if name == method]
    usable = [run for run in runs if set(PROBES) <= set(run.trajectory.columns) and len(run.trajectory)]
    return usable[0] if usable else None


def _landscape() -> tuple[Floats, Floats]:
    # Only this picture needs the problem; reports of others do without it.
    from benchmarks.problems.famo_toy import landscape

    places = torch.linspace(-REACH, REACH, _CELLS, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1)
    return places.numpy(), landscape(points).mean(-1).numpy()


def _front() -> Floats:
    from benchmarks.problems.famo_toy import pareto_front

    return np.asarray(pareto_front(201)[0].numpy(), dtype=np.float64)
