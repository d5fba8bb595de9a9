"""The columns of a trajectory as arrays: what is left out, what stands for a missing number, and that they are made once."""

from __future__ import annotations

import fake_runs
import numpy as np
import pandas as pd
import pytest

from benchmarks.records.schema import Run

NAN = float("nan")


def run_of(rows: list[tuple[int, int, str, float]]) -> Run:
    table = pd.DataFrame(rows, columns=["step", "replica", "task", "val_loss"])
    return Run(fake_runs.make("uniform").record, table.assign(weight=NAN))


def test_steps_are_in_order_and_tasks_as_in_the_record_whatever_the_order_of_the_rows() -> None:
    rows = [(10, 0, "right", 4.0), (0, 0, "right", 2.0), (10, 0, "left", 3.0), (0, 0, "left", 1.0)]
    steps, values = run_of(rows).values("val_loss")
    assert steps.tolist() == [0, 10]
    assert values.tolist() == [[[1.0, 2.0]], [[3.0, 4.0]]]


def test_steps_and_replicas_without_any_number_are_left_out_and_single_numbers_are_missing() -> None:
    rows = [(0, 0, "left", 1.0), (0, 0, "right", NAN), (5, 0, "left", NAN), (5, 0, "right", NAN), (5, 1, "left", NAN)]
    steps, values = run_of(rows).values("val_loss")
    assert steps.tolist() == [0]
    np.testing.assert_array_equal(values, [[[1.0, NAN]]])


@pytest.mark.parametrize("rows", [[], [(0, 0, "left", NAN)]])
def test_a_column_without_numbers_has_no_steps(rows: list[tuple[int, int, str, float]]) -> None:
    steps, values = run_of(rows).values("weight")
    assert (steps.shape, values.shape) == ((0,), (0, 1, 2))


def test_an_array_is_made_once_and_nobody_can_change_it_for_the_others() -> None:
    run = run_of([(0, 0, "left", 1.0), (0, 0, "right", 2.0)])
    steps, values = run.values("val_loss")
    assert run.values("val_loss")[1] is values
    for array in (steps, values):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
