"""The history of checks as a picture: verdicts that failed, then change and cost of every method, over the commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmarks.regression import golden_weights, quality, step_cost
from benchmarks.regression.history import Entry, GateNumber
from benchmarks.report.figures import style
from benchmarks.report.palette import DASHES, Style, method_styles

SHOWN = 30
"""The latest checks, as many as there is room for."""
LIMITS = {quality.GATE: quality.FACTOR, step_cost.GATE: step_cost.FACTOR}
"""The dashed line of a panel."""
GATES = {golden_weights.GATE: ("#000000", "o"), quality.GATE: ("#D55E00", "s"), step_cost.GATE: ("#0072B2", "^")}


def draw(entries: Sequence[Entry]) -> bytes:
    """The PNG. Raises ValueError without entries."""
    if not entries:
        raise ValueError("expected at least one check, found none")
    with style.settings():
        return style.render(figure(entries[-SHOWN:]))


def figure(entries: Sequence[Entry]) -> Figure:
    """One panel with the number of failed verdicts, then two for each problem; a cross marks a failed verdict."""
    problems = list(dict.fromkeys(n.place for entry in entries for n in entry.numbers if n.gate == quality.GATE))
    methods = list(dict.fromkeys(n.method for entry in entries for n in entry.numbers if n.gate == quality.GATE))
    styles = method_styles(methods)
    made = Figure(figsize=(style.DOUBLE, 1.7 * (1 + len(problems)) + 0.9), layout="constrained")
    FigureCanvasAgg(made)
    places = made.add_gridspec(1 + len(problems), 2)
    top = made.add_subplot(places[0, :])
    _failures(top, entries)
    axes = [top]
    for row, problem in enumerate(problems, start=1):
        for column, (gate, label) in enumerate(
            ((quality.GATE, "change % (up: worse)"), (step_cost.GATE, "s/step ratio to baseline"))
        ):
            axis = made.add_subplot(places[row, column])
            _numbers(axis, entries, gate, problem, styles)
            axis.set_title(f"{problem}: {gate}")
            axis.set_ylabel(label)
            axes.append(axis)
    for axis in axes:
        _commits(axis, entries, room=12 if axis is top else 5)
    handles = [Line2D([], [], marker=styles[name].marker, markeredgewidth=0, **styles[name].line) for name in methods]
    crossed = Line2D([], [], marker="x", color="#444444", linestyle="", markersize=5)
    style.legend_below(made, [*handles, crossed], [*methods, "failed the gate"])
    return made


def _failures(axis: Axes, entries: Sequence[Entry]) -> None:
    for index, (gate, (color, marker)) in enumerate(GATES.items()):
        counts = [sum(n.gate == gate and n.state == "failed" for n in entry.numbers) for entry in entries]
        axis.plot(range(len(entries)), counts, color=color, marker=marker, linestyle=DASHES[index], label=gate, markersize=4)
    axis.set_title("Failed verdicts by gate")
    axis.set_ylabel("number")
    axis.set_ylim(bottom=-0.3, top=max(1.3, axis.get_ylim()[1]))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.legend(loc="upper left", ncols=3)


def _numbers(axis: Axes, entries: Sequence[Entry], gate: str, problem: str, styles: Mapping[str, Style]) -> None:
    for method, own in styles.items():
        found = [_find(entry, gate, problem, method) for entry in entries]
        values = np.array([np.nan if each is None or each.value is None else each.value for each in found])
        axis.plot(range(len(entries)), values, marker=own.marker, markeredgewidth=0, **own.line)
        failed = [x for x, each in enumerate(found) if each is not None and each.state == "failed"]
        # Failed without a number, as where a run diverged: at the upper edge.
        inside = [x for x in failed if np.isfinite(values[x])]
        axis.plot(inside, values[inside], "x", color=own.color, markersize=7, markeredgewidth=1.2, zorder=3)
        above = [x for x in failed if x not in inside]
        axis.plot(above, [0.97] * len(above), "x", color=own.color, markersize=7, transform=axis.get_xaxis_transform())
    axis.margins(y=0.12)
    axis.axhline(LIMITS[gate], color="#555555", linewidth=0.7, linestyle=DASHES[2])


def _find(entry: Entry, gate: str, problem: str, method: str) -> GateNumber | None:
    return next((n for n in entry.numbers if (n.gate, n.place, n.method) == (gate, problem, method)), None)


def _commits(axis: Axes, entries: Sequence[Entry], room: int) -> None:
    """The x axis: short commits, as many as there is room for, with ``+`` where files differed from the commit."""
    every = -(-len(entries) // room)
    ticks = range(len(entries) - 1, -1, -every)
    axis.set_xlim(-0.4, len(entries) - 0.6)
    axis.set_xticks(list(ticks), [_short(entries[tick].commit) for tick in ticks])


def _short(commit: str | None) -> str:
    if commit is None:
        return "unknown"
    return commit[:7] + ("+" if "+" in commit else "")
