"""A task that a batch lacks is in no mean, sum or picture: neither as 0 nor as a reason to leave the others out."""

from __future__ import annotations

from pathlib import Path

import fake_runs
import numpy as np
import pytest

from benchmarks.analysis import statistics
from benchmarks.analysis.sections import sections
from benchmarks.analysis.spread import MOST_LINES
from benchmarks.planning.frozen import frozen_run
from benchmarks.records.schema import Run
from benchmarks.report.figures import weights as picture

TASKS = ("one", "two", "three")
SPARSE = (1.0, 0.8, 0.3)
"""The share of batches in which each task is."""


def sparse(run: Run, seed: int = 0) -> Run:
    """The run with every weight at 1, and tasks away from some batches, as the harness logs it."""
    draw = np.random.default_rng(seed)
    frame = run.trajectory.copy()
    for task, share in zip(run.record.tasks, SPARSE, strict=True):
        rows = (frame["task"] == task) & frame["weight"].notna()
        there = draw.random(int(rows.sum())) < share
        there[0] = True
        frame.loc[rows, "weight"] = np.where(there, 1.0, np.nan)
        frame.loc[rows, "train_loss"] = np.where(there, frame.loc[rows, "train_loss"], np.nan)
        frame.loc[rows, "count"] = np.where(there, 8.0, 0.0)
    return Run(run.record.model_copy(update={"mean_weights": None}), frame)


def test_weights_that_never_move_are_frozen_as_they_are() -> None:
    """By the logged steps of an old record, and by the means over all steps of a new one."""
    run = sparse(fake_runs.make("dwa", 0, tasks=TASKS))
    frozen = frozen_run(run)
    assert frozen is not None and frozen.weighter.hyperparameters == {"weights": [1.0, 1.0, 1.0]}
    means = dict(zip(run.record.tasks, (1.5, 1.0, 0.5), strict=True))
    frozen = frozen_run(Run(run.record.model_copy(update={"mean_weights": means}), run.trajectory))
    assert frozen is not None and frozen.weighter.hyperparameters == {"weights": [1.5, 1.0, 0.5]}


def test_the_mean_weight_is_of_the_tasks_that_are_there() -> None:
    assert statistics.mean_weight(sparse(fake_runs.make("dwa", 0, tasks=TASKS)).values("weight")[1]) == 1.0
    full = np.random.default_rng(0).random((50, 1, 4))
    assert statistics.mean_weight(full) == pytest.approx(full.sum(-1).mean() / 4)


def test_windows_and_bands_leave_absent_steps_out() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 5.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(statistics.windows(values, 2), [[2.0, np.nan], [np.nan, 5.0]])
    mean, error = statistics.band(np.array([[1.0, np.nan, 2.0], [3.0, np.nan, np.nan]]))
    np.testing.assert_array_equal(mean, [2.0, np.nan, 2.0])
    np.testing.assert_array_equal(error, [1.0, np.nan, np.nan])
    full = np.random.default_rng(0).random((5, 40))
    np.testing.assert_allclose(statistics.band(full)[1], full.std(axis=0, ddof=1) / np.sqrt(5))


def test_absent_steps_draw_nothing() -> None:
    runs = [sparse(fake_runs.make(name, seed, tasks=TASKS), seed) for name in ("uniform", "dwa") for seed in (0, 1)]
    made = picture.figure(sections(runs)[0][0])
    assert made is not None
    drawn = [np.asarray(line.get_ydata(), dtype=float) for axis in made.axes for line in axis.get_lines()]
    curves = [values for values in drawn if len(values) > 2]
    assert len(curves) == 2 * len(TASKS)
    assert all(set(values) == {1.0} for values in curves)


@pytest.mark.parametrize("number", [12, 13, 60])
def test_many_tasks_are_drawn_by_their_spread(number: int, tmp_path: Path) -> None:
    tasks = tuple(f"group/τ{place}" for place in range(number))
    runs = [fake_runs.make(name, seed, tasks=tasks) for name in ("uniform", "gradnorm") for seed in (0, 1)]
    made = picture.figure(sections(runs)[0][0])
    assert made is not None
    lines = max(len(axis.get_lines()) for axis in made.axes)
    assert (lines <= 2) == (number > MOST_LINES)
    made.savefig(tmp_path / "weights.png", dpi=80)
