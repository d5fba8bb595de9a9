"""Performance profiles: in what share of all metrics and seeds a method is at least so much better than uniform weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.analysis.across import Changes
from benchmarks.analysis.comparable import UNIFORM
from benchmarks.report.figures import style
from benchmarks.report.palette import Style

CAPTION = (
    "Share of all primary metrics, over problems and seeds, whose change against uniform weights of the same seed is at "
    "most the value on the axis; negative: better. A curve further up and left is better; uniform weights step up at 0. "
    "The axis ends where one in fifty values lies beyond on either side."
)


def figure(found: Changes, styles: Mapping[str, Style]) -> Figure | None:
    """One curve for each method that finished everywhere; None for fewer than two problems."""
    methods = [method for method in found.methods if method != UNIFORM]
    if found.frame["problem"].nunique() < 2 or not methods:
        return None
    made, (axis,) = style.grid(1)
    everything = found.frame.loc[found.frame["method"].isin(methods), "change"].to_numpy(np.float64)
    low, high = np.quantile(everything, [0.02, 0.98])
    limits = np.linspace(low, high, 200)
    for method in methods:
        values = np.sort(found.frame.loc[found.frame["method"] == method, "change"].to_numpy(np.float64))
        shares = np.searchsorted(values, limits, side="right") / len(values)
        axis.plot(limits, shares, color=styles[method].color, linestyle=styles[method].dashes, linewidth=1.0)
    axis.axvline(0, color="#555555", linewidth=0.8, linestyle=(0, (1, 1.6)))
    axis.set_xlabel("change against uniform %  (lower is better)")
    axis.set_ylabel("share of metrics and seeds")
    axis.set_ylim(-0.02, 1.02)
    handles = [Line2D([], [], color=styles[name].color, linestyle=styles[name].dashes, linewidth=1.2) for name in methods]
    style.legend_below(made, handles, methods)
    return made
