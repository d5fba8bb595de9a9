"""The properties that a method may claim."""

from __future__ import annotations

from enum import Flag, auto


class Claim(Flag):
    """What a method says of its weights; each is checked by the function of its name in ``weighting.testing.claims``."""

    NOTHING = 0
    NONNEGATIVE = auto()
    SUMS_TO_ONE = auto()
    SUMS_TO_NUM_TASKS = auto()
    PERMUTATION_EQUIVARIANT = auto()
    SCALE_FREE = auto()
    TASK_SCALE_FREE = auto()
    UNDOES_TASK_SCALES = auto()
    BALANCES_LOSSES = auto()
    FINITE_ON_EXTREME_LOSSES = auto()
    FAVOURS_THE_SLOWEST = auto()
    TURNED_TASK_LOSES_WEIGHT = auto()
    UNIFORM_UNTIL_WARMUP_ENDS = auto()
    DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE = auto()
    OPPOSES_NO_TASK = auto()
    SHORTEST_IN_THE_SIMPLEX = auto()
    BEST_FOR_THE_WORST_TASK = auto()
    SUMS_PROJECTIONS = auto()
    EQUAL_PROJECTIONS = auto()
    EQUAL_GAINS = auto()
    RAISES_NO_QUERY_LOSS = auto()

    @property
    def label(self) -> str:
        """The name of one property as reports and pages write it: that of its checker."""
        return str(self.name).lower()
