"""The comparison over pairs: against numbers worked out by hand and by other libraries' rules."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.analysis.paired import LEVEL, MIN_PAIRS, holm, paired, too_few


def test_p_is_the_share_of_sign_patterns_at_least_as_extreme() -> None:
    differences = np.array([-0.3, -1.2, 0.4, -2.0, -0.9, -0.1, -0.7])
    means = np.array([abs((differences * signs).mean()) for signs in itertools.product([1, -1], repeat=7)])
    expected = (means >= abs(differences.mean()) - 1e-12).mean()
    assert paired(differences).p_value == pytest.approx(expected)


def test_all_pairs_on_one_side_reach_the_smallest_p() -> None:
    assert paired(-np.arange(1.0, 9.0)).p_value == pytest.approx(2 / 2**8)


@pytest.mark.parametrize(("pairs", "least"), [(3, "0.25"), (5, "0.0625"), (1, "1")])
def test_few_pairs_get_no_p_but_the_reason(pairs: int, least: str) -> None:
    result = paired(-np.ones(pairs))
    assert math.isnan(result.p_value)
    assert result.test == ""
    assert f"cannot reach p < {least}" in result.note


def test_least_pairs_is_where_a_p_below_the_level_begins() -> None:
    assert 2 / 2 ** (MIN_PAIRS - 1) >= LEVEL > 2 / 2**MIN_PAIRS
    assert too_few(MIN_PAIRS) == ""


def test_improvement_counts_ties_half_and_nan_not_at_all() -> None:
    result = paired(np.array([-1.0, 0.0, 2.0, -3.0, math.nan]))
    assert (result.pairs, result.improvement, result.mean) == (4, 0.625, -0.5)


def test_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    differences = np.random.default_rng(3).normal(1.0, 1.0, 10)
    first, again = paired(differences), paired(differences)
    assert first == again
    assert first.low < first.mean < first.high
    assert paired(differences, confidence=0.5).high < first.high


def test_one_pair_has_no_interval_and_no_pairs_no_mean() -> None:
    assert math.isnan(paired(np.array([1.0])).low)
    assert paired(np.array([])).note == "no pairs"


def test_many_pairs_take_random_signs_and_say_so() -> None:
    result = paired(np.random.default_rng(0).normal(0.0, 1.0, 30))
    assert "random signs" in result.test
    assert 0 < result.p_value <= 1


def test_holm_by_hand() -> None:
    assert holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_and_keeps_the_order(values: list[float]) -> None:
    corrected = holm(values)
    assert all(before <= after <= 1 for before, after in zip(values, corrected, strict=True))
    for first, second in itertools.combinations(range(len(values)), 2):
        if values[first] < values[second]:
            assert corrected[first] <= corrected[second]
