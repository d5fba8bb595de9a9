"""The third gate: seconds per step relative to uniform weights in the same run of the suite, and counted passes.

``FACTOR`` is chosen from the spread that is left on a small shared machine (``results/reference/check/calibration.md``).
What is too small for it is counted without noise: more forward or backward passes beyond those of the weighted total than in
the baseline fail too.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from benchmarks.analysis.comparable import uniform_label
from benchmarks.analysis.relative_cost import middle, ratios
from benchmarks.records.schema import Run, WeighterSpec
from benchmarks.regression.baseline import Methods, Seeds, any_of, finished
from benchmarks.regression.gate_result import GateResult, State

GATE = "cost"
FACTOR = 1.5
PASSES = 0.01
"""Per step; a method that asks for less in some steps may do so a step earlier or later."""


def judge(problem: str, label: str, base: tuple[Methods, str], head: tuple[Methods, str]) -> GateResult:
    """The verdict on one method, from all runs of either folder and what the method is called there."""
    pairs = [ratios_of(*each) for each in (base, head)]
    before, after = map(middle, pairs)
    passes, passes_now = (passes_per_step(methods[name]) for methods, name in (base, head))
    ratio, more = after / before, passes_now > passes + PASSES
    if math.isfinite(ratio):
        reason = f"s/step relative to uniform {before:.2f}, now {after:.2f}: times {ratio:.2f}, allowed {FACTOR:g}"
        reason += f" ({len(pairs[0])} pairs of runs trained together, now {len(pairs[1])})"
    else:
        where = "this run" if math.isfinite(before) else "the baseline"
        reason = f"no undisturbed runs of the method and of uniform that were trained together in {where}"
    if more:
        reason += f"; extra passes per step {passes:.2f}, now {passes_now:.2f}"
    state: State = "ok" if math.isfinite(ratio) else "not judged"
    return GateResult(GATE, problem, label, "failed" if more or ratio > FACTOR else state, reason, ratio)


def relative(methods: Methods, label: str) -> float:
    """Median over seeds of s/step by that of uniform weights; NaN where no seed has a pair."""
    return middle(ratios_of(methods, label))


def ratios_of(methods: Methods, label: str) -> dict[int, float]:
    """Seed -> s/step by that of uniform weights, where the two are a pair, see ``relative_cost``."""
    return ratios(finished(methods.get(label, {})).values(), uniform_of(methods))


def uniform_of(methods: Methods) -> Collection[Run]:
    """The finished runs of uniform weights; none where there is no such method."""
    label = uniform_label({name: _spec(seeds) for name, seeds in methods.items()})
    return () if label is None else finished(methods[label]).values()


def passes_per_step(seeds: Seeds) -> float:
    """Forward and backward passes per step beyond those of the weighted total, mean over the finished runs, else NaN."""
    costs = [run.record.costs for run in finished(seeds).values()]
    passes = [cost.extra_forwards + cost.extra_backwards for cost in costs if cost is not None]
    return float(np.mean(passes)) if passes else math.nan


def _spec(seeds: Seeds) -> WeighterSpec:
    return any_of(seeds).record.run.weighter
