"""What a step costs relative to uniform weights: the one way in which methods' costs are compared.

Relative, since machines differ; to the uniform run of the same seed, trained shortly before, since what runs beside comes
and goes; then the median over seeds. (The ratio of medians raised false alarms in 6 % of the checks instead of 1 %, after
one busy period.) Runs that had to wait for a processor are in no ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from benchmarks.record import DISTURBED, Run


def seconds_per_step(run: Run) -> float:
    """NaN where it is not known, or says more of the machine than of the method."""
    costs = run.record.costs
    disturbed = any(flag.name == DISTURBED for flag in run.record.flags)
    return math.nan if costs is None or disturbed else costs.seconds_per_step


def ratios(runs: Iterable[Run], uniform: Iterable[Run]) -> dict[int, float]:
    """Seed -> seconds per step by those of the uniform run of the seed, where both are known. Both of finished runs."""
    base = {run.seed: seconds_per_step(run) for run in uniform}
    found = {run.seed: seconds_per_step(run) / base[run.seed] for run in runs if base.get(run.seed, 0.0) > 0}
    return {seed: ratio for seed, ratio in found.items() if math.isfinite(ratio)}


def middle(found: Mapping[int, float]) -> float:
    """The median over seeds; NaN where there is none."""
    return float(np.median(list(found.values()))) if found else math.nan
