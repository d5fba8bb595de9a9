"""Which values a chart shows: ends, logarithm, and the curves that leave it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.analysis.scales import Scale, of_losses, off_scale, scale
from benchmarks.analysis.sections import STL

STEPS = np.arange(40)
USUAL = {f"method {number}": 1 + number / 10 + 9 * np.exp(-STEPS) for number in range(4)}


def test_an_axis_is_logarithmic_beyond_a_decade_of_positive_values() -> None:
    linear, logarithmic = scale([np.array([1.0, 9.0])]), scale([np.array([1.0, 90.0])])
    assert linear is not None
    assert (linear.low, linear.high) == pytest.approx((0.6, 9.4))
    assert not linear.logarithmic
    assert logarithmic is not None
    assert logarithmic.logarithmic
    assert 0 < logarithmic.low < 1 < 90 < logarithmic.high
    below = scale([np.array([-1.0, 90.0])])
    assert below is not None
    assert not below.logarithmic


def test_a_constant_has_room_around_it_and_nothing_has_no_axis() -> None:
    assert scale([np.array([2.0, np.nan])]) == Scale(1.8, 2.2, False)
    assert scale([np.array([np.nan])]) is None


def test_a_curve_that_ends_far_away_leaves_the_chart_and_a_steep_start_does_not() -> None:
    shown, off = of_losses({**USUAL, "blows up": np.where(STEPS > 35, 1e6, 1.0)})
    assert off == ["blows up"]
    assert shown is not None
    assert shown.low < 1 < 1.4 < shown.high < 2
    assert of_losses(USUAL) == (shown, [])


def test_single_task_training_leaves_only_where_it_ends_above_and_moves_no_end() -> None:
    shown, off = of_losses({**USUAL, STL: np.full(40, 50.0)})
    assert (shown, off) == (of_losses(USUAL)[0], [STL])
    assert of_losses({**USUAL, STL: np.full(40, 0.1)})[1] == []
    alone, off = of_losses({STL: np.full(40, 50.0)})
    assert alone == Scale(45.0, 55.0, False)
    assert off == []


def test_of_two_curves_neither_is_off() -> None:
    assert off_scale({"one": np.ones(5), "other": np.full(5, 1e9)}) == []
