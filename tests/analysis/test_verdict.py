"""The verdict: one rule and one vocabulary, whoever asks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.analysis.paired import paired
from benchmarks.analysis.verdict import VERDICTS, judge, pairs_needed
from benchmarks.papers.claims import SAYS
from benchmarks.records.schema import Floats

BETTER = -np.array([5.0, 6.0, 7.0, 5.5, 6.5, 4.0, 5.2, 6.1, 4.7, 5.9])


def verdicts(*gaps: Floats) -> list[str]:
    return [each.verdict for each in judge(gaps)]


def test_each_word_of_the_vocabulary() -> None:
    noise = np.array([1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5, 0.1, 0.0])
    found = judge([BETTER, -BETTER, noise, BETTER[:3], np.zeros(3), np.array([math.nan])])
    assert [each.verdict for each in found] == [
        "better", "worse", "no difference seen", "too few to test", "identical", "no pairs"
    ]  # fmt: skip
    assert [each.words for each in found][2:] == [
        "no difference seen", "3 of 3 better; too few to test", "identical", "no pairs"
    ]  # fmt: skip
    assert {each.verdict for each in found} == set(VERDICTS) == set(SAYS)


@pytest.mark.parametrize("pairs", range(1, 11))
@pytest.mark.parametrize("comparisons", [1, 2, 3, 7, 12])
def test_feasible_is_what_can_come_below_the_level_after_holm(pairs: int, comparisons: int) -> None:
    """All pairs on one side give 2 / 2^n, which Holm multiplies by the number of comparisons."""
    reachable = 2 ** (1 - pairs) * comparisons < 0.05
    assert set(verdicts(*[BETTER[:pairs]] * comparisons)) == {"better" if reachable else "too few to test"}
    assert (pairs >= pairs_needed(comparisons)) is reachable


def test_the_same_pairs_in_a_larger_table_are_too_few() -> None:
    assert verdicts(BETTER[:6]) == ["better"]
    assert verdicts(*[BETTER[:6]] * 7) == ["too few to test"] * 7


def test_identical_and_empty_comparisons_take_nothing_from_the_others() -> None:
    (alone,) = judge([BETTER[:6]])
    among = judge([np.zeros(6), BETTER[:6], np.zeros(0), np.full(4, math.nan)])
    assert among[1] == alone
    assert math.isnan(among[0].p_value)


def test_p_is_holms_over_the_table() -> None:
    second = BETTER.copy()
    second[0] *= -1
    first, other = judge([BETTER, second])
    assert first.p_value == pytest.approx(2 * paired(BETTER).p_value)
    assert other.p_value == pytest.approx(max(paired(second).p_value, first.p_value))


def test_a_pair_that_differs_in_its_last_digit_is_not_identical() -> None:
    assert verdicts(np.array([0.0, 1e-300, 0.0])) == ["too few to test"]
    assert verdicts(np.array([0.0, math.nan, 0.0])) == ["identical"]
