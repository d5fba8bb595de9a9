"""Accelerate with task weights against training by hand: accumulation, clipping, saved states, skipped steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from by_hand import METHODS, STEPS, assert_equal, by_hand

pytest.importorskip("accelerate")
from by_accelerate import resumed, run


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("name", METHODS)
def test_accumulation_trains_as_whole_batches_by_hand(name: str, pieces: int) -> None:
    assert_equal(run(name, pieces), by_hand(name))


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_state_goes_on_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    for stop in range(1, STEPS):
        found = resumed(name, tmp_path / str(stop), stop)
        torch.testing.assert_close(found, by_hand(name).parameters, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_of_a_step_that_the_scaler_skipped_nothing_is_learned(name: str) -> None:
    assert_equal(run(name, skipped=3), by_hand(name, skipped=3))
