"""The third gate: seconds per step relative to uniform weights in the same run of the suite, and counted passes.

Relative, since machines differ, and to the uniform run of the same seed, trained shortly before, since what runs beside
comes and goes; then the median over seeds. (The ratio of the medians raised false alarms in 6 % of the checks instead of
1 %, after one busy period.) ``FACTOR`` is chosen from the spread that is left on a small shared machine
(``results/reference/check/calibration.md``). What is too small for it is counted without noise: more forward or backward
passes beyond those of the weighted total than in the baseline fail too.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.record import Run
from benchmarks.regression.sides import Methods, Seeds, finished
from benchmarks.regression.verdict import Verdict
from benchmarks.report.sections import UNIFORM

GATE = "cost"
FACTOR = 1.5
PASSES = 0.01
"""Per step; a method that asks for less in some steps may do so a step earlier or later."""


def judge(problem: str, label: str, base: Methods, head: Methods) -> Verdict:
    """The verdict on one method."""
    before, after = relative(base, label), relative(head, label)
    if not (math.isfinite(before) and math.isfinite(after)):
        where = "the baseline" if not math.isfinite(before) else "this run"
        reason = f"no finished run of the method and of uniform in {where}"
        return Verdict(GATE, problem, label, "not judged", reason)
    passes, passes_now = passes_per_step(base[label]), passes_per_step(head[label])
    more = passes_now > passes + PASSES
    ratio = after / before
    reason = f"s/step relative to uniform {before:.2f}, now {after:.2f}: times {ratio:.2f}, allowed {FACTOR:g}"
    if more:
        reason += f"; extra passes per step {passes:.2f}, now {passes_now:.2f}"
    return Verdict(GATE, problem, label, "failed" if more or ratio > FACTOR else "ok", reason, ratio)


def relative(methods: Methods, label: str) -> float:
    """Median over seeds of s/step by that of uniform weights; NaN where no seed has a finished run of both."""
    uniform = next((_seconds(seeds) for seeds in methods.values() if _name(seeds) == UNIFORM), {})
    ratios = [seconds / uniform[seed] for seed, seconds in _seconds(methods.get(label, {})).items() if seed in uniform]
    return float(np.median(ratios)) if ratios else math.nan


def passes_per_step(seeds: Seeds) -> float:
    """Forward and backward passes per step beyond those of the weighted total, mean over the finished runs."""
    costs = [run.record.costs for run in finished(seeds).values()]
    return float(np.mean([cost.extra_forwards + cost.extra_backwards for cost in costs if cost is not None]))


def _seconds(seeds: Seeds) -> dict[int, float]:
    """Seed -> seconds per step."""
    costs = {seed: run.record.costs for seed, run in finished(seeds).items()}
    return {seed: cost.seconds_per_step for seed, cost in costs.items() if cost is not None}


def _name(seeds: Seeds) -> str:
    run: Run = next(iter(seeds.values()))
    return run.record.run.weighter.name
