"""The critical-difference diagram: mean ranks, joined where they do not differ."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.analysis.across import Ranking, useful
from benchmarks.report.figures import style

CAPTION = (
    "Mean ranks over the problems, 1 is best. Bars join methods whose ranks differ by less than the critical difference "
    "(Friedman's test, then Nemenyi's, 0.05). Both depend on which methods are in the pool."
)


def figure(result: Ranking | None) -> Figure | None:
    """None where there are too few problems for it to say anything."""
    if result is None or not useful(result):
        return None
    order = sorted(result.ranks, key=lambda method: result.ranks[method])
    made, (axis,) = style.grid(1)
    for height, method in enumerate(order):
        axis.plot(result.ranks[method], -height, "o", color="#333333", markersize=4)
        axis.annotate(method, (result.ranks[method], -height), xytext=(6, -2), textcoords="offset points", fontsize=7)
    for offset, (first, last) in enumerate(cliques(result)):
        axis.plot([first, last], [0.6 + 0.35 * offset] * 2, color="#333333", linewidth=2)
    axis.set_xlabel(f"mean rank over {result.blocks} problems; critical difference {result.critical:.2f}")
    axis.set_yticks([])
    axis.margins(0.15)
    return made


def cliques(result: Ranking) -> list[tuple[float, float]]:
    """The ranks that each bar spans: largest groups in which nobody differs."""
    ranks = sorted(result.ranks.values())
    found: list[tuple[float, float]] = []
    for first in ranks:
        last = max(rank for rank in ranks if rank - first < result.critical)
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found
