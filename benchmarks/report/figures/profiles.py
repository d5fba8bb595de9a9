"""Performance profiles: in what share of all metrics and seeds a method is at least so much better than uniform weights."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.analysis.across import Changes, profiles
from benchmarks.report.figures import style
from benchmarks.report.palette import Style

CAPTION = (
    "Share of all primary metrics, over problems and seeds, whose change against uniform weights of the same seed is at "
    "most the value on the axis; negative: better. A curve further up and left is better; uniform weights step up at 0. "
    "The axis ends where one in fifty values lies beyond on either side."
)


def figure(found: Changes, styles: Mapping[str, Style]) -> Figure | None:
    """One curve for each method that finished everywhere; None for fewer than two problems."""
    shown = profiles(found)
    if shown is None:
        return None
    made, (axis,) = style.grid(1)
    for method, shares in shown.shares.items():
        axis.plot(shown.limits, shares, **styles[method].line)
    axis.axvline(0, color="#555555", linewidth=0.8, linestyle=(0, (1, 1.6)))
    axis.set_xlabel("change against uniform %  (lower is better)")
    axis.set_ylabel("share of metrics and seeds")
    axis.set_ylim(-0.02, 1.02)
    handles = [Line2D([], [], linewidth=1.2, **styles[name].line) for name in shown.shares]
    style.legend_below(made, handles, list(shown.shares))
    return made
