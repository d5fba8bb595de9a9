"""The verdict on a comparison over pairs: one rule and one vocabulary for tables, pages and commands.

better, worse         the sign-flip test gives p < 0.05 after Holm's correction over the comparisons of the table
no difference seen    it does not
too few to test       no p below 0.05 exists for so many pairs and comparisons
identical             every pair is equal to the last digit: nothing to test, and not counted among the comparisons
no pairs              no seed has both runs
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.analysis.paired import LEVEL, MIN_PAIRS, Paired, holm, paired, smallest_p, too_few
from benchmarks.records.schema import Floats

Verdict = Literal["better", "worse", "no difference seen", "too few to test", "identical", "no pairs"]
VERDICTS: tuple[Verdict, ...] = ("worse", "better", "no difference seen", "too few to test", "identical", "no pairs")
"""In the order in which they are counted."""


@dataclass(frozen=True)
class Judged:
    """One comparison of a table."""

    found: Paired
    p_value: float
    """After Holm over the comparisons of the table; NaN where none could be made."""
    verdict: Verdict
    comparisons: int
    """How many there are in the table, identical and empty ones not counted."""

    @property
    def words(self) -> str:
        """The verdict as it is shown: where there are too few pairs, with what they look like."""
        if self.verdict != "too few to test":
            return self.verdict
        better = round(self.found.improvement * self.found.pairs, 1)
        return f"{better:g} of {self.found.pairs} better; too few to test"

    @property
    def test(self) -> str:
        """Which test was made, or why none was."""
        pairs = self.found.pairs
        if self.verdict in ("identical", "no pairs"):
            return self.verdict
        if math.isfinite(self.p_value):
            return self.found.test
        least = _least(pairs, self.comparisons)
        return too_few(pairs) or f"{pairs} pairs cannot reach p < {least:.2g} over {self.comparisons} comparisons"


def judge(gaps: Sequence[Floats]) -> tuple[Judged, ...]:
    """The verdicts of one table. gaps: for each comparison ``(n,)`` differences of pairs of a seed, negative: better."""
    found = [paired(gap) for gap in gaps]
    identical = [_identical(gap) for gap in gaps]
    number = sum(each.pairs > 0 and not same for each, same in zip(found, identical, strict=True))
    tested = [not same and _testable(each.pairs, number) for each, same in zip(found, identical, strict=True)]
    corrected = holm([each.p_value if test else math.nan for each, test in zip(found, tested, strict=True)])
    return tuple(
        Judged(each, p, "identical" if same else _verdict(each, p), number)
        for each, same, p in zip(found, identical, corrected, strict=True)
    )


def pairs_needed(comparisons: int) -> int:
    """The fewest pairs with which one of so many comparisons can be found to differ."""
    return next(pairs for pairs in itertools.count(MIN_PAIRS) if _testable(pairs, comparisons))


def _identical(gap: Floats) -> bool:
    known = np.asarray(gap, dtype=np.float64)
    known = known[np.isfinite(known)]
    return bool(len(known)) and not known.any()


def _testable(pairs: int, comparisons: int) -> bool:
    """Whether so many pairs can reach the level once p is corrected for as many comparisons."""
    return pairs >= MIN_PAIRS and _least(pairs, comparisons) < LEVEL


def _least(pairs: int, comparisons: int) -> float:
    return smallest_p(pairs) * comparisons


def _verdict(result: Paired, p_value: float) -> Verdict:
    if result.pairs == 0:
        return "no pairs"
    if math.isnan(p_value):
        return "too few to test"
    if p_value >= LEVEL:
        return "no difference seen"
    return "better" if result.mean < 0 else "worse"
