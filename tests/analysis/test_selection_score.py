"""The selection score: one function for the selected step, the tuned setting and the curves, and what it does with gaps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import fake_runs
import numpy as np
import pytest
import torch
from selections import loop_of

from benchmarks.analysis.equal_time import lowest_score
from benchmarks.analysis.selection_score import score
from benchmarks.contract import Evaluation
from benchmarks.planning.tuned import validation_score
from benchmarks.records.schema import Run, Selection

NAN = math.nan


@pytest.mark.parametrize(
    ("first", "now", "expected"),
    [
        ([2.0, 4.0], [1.0, 1.0], (0.5 + 0.25) / 2),
        ([2.0, 0.0], [1.0, 3.0], 0.5),
        ([2.0, 0.0], [1.0, 0.0], 0.5),
        ([2.0, NAN], [1.0, NAN], 0.5),
        ([2.0, math.inf], [1.0, 3.0], 0.5),
        ([-2.0, 4.0], [-3.0, 4.0], (0.5 + 1) / 2),
        ([-2.0], [-2.0], 1.0),
        ([2.0, 4.0], [NAN, 1.0], math.inf),
        ([2.0, 4.0], [math.inf, 1.0], math.inf),
        ([0.0, NAN], [1.0, 1.0], math.inf),
        ([1e-300], [1e300], math.inf),
    ],
)
def test_tasks_without_a_scale_are_in_no_mean(first: list[float], now: list[float], expected: float) -> None:
    assert float(score(np.array(now), np.array(first))) == pytest.approx(expected)


def test_a_loss_below_zero_that_falls_is_better() -> None:
    falling = score(np.array([[-1.0], [-2.0], [-4.0]]), np.array([-1.0]))
    assert falling[0] == 1
    assert (np.diff(falling) < 0).all()


def test_many_steps_at_once_and_replicas() -> None:
    draw = np.random.default_rng(0)
    losses = draw.uniform(0.1, 2, (7, 3, 4))
    first = losses[0].copy()
    first[1, 2] = 0
    each = [np.mean([losses[t, r, k] / first[r, k] for r in range(3) for k in range(4) if first[r, k]]) for t in range(7)]
    assert score(losses, first) == pytest.approx(each)


# One run whose second task begins at a validation loss of 0, told by the first task alone, wherever a score is read.
LOSSES = {0: [2.0, 0.0], 100: [1.0, 0.3], 200: [0.5, 0.9], 300: [0.8, 0.1], 400: [1.5, 0.0]}
BEST, SCORE = 200, 0.25


def recorded() -> Run:
    run = fake_runs.make("uniform")
    table = run.trajectory.copy()
    table["val_loss"] = [
        LOSSES[step][["left", "right"].index(task)] if step in LOSSES else NAN
        for step, task in zip(table["step"], table["task"], strict=True)
    ]
    record = run.record.model_copy(update={"selection": Selection(rule="best_validation", step=BEST)})
    return replace(run, record=record, trajectory=table)


def test_selection_tuning_and_curves_read_the_same_score() -> None:
    run = recorded()
    selector = loop_of("best_validation").selector
    for step, losses in LOSSES.items():
        validation = Evaluation(losses=torch.tensor(losses), metrics={"left/loss": losses[0]})
        selector.look(step, validation, torch.tensor(LOSSES[0]))
    selected: dict[str, Any] = selector.state_dict()
    assert (selected["step"], selected["score"]) == (BEST, pytest.approx(SCORE))
    assert validation_score(run) == pytest.approx(SCORE)
    assert lowest_score(run, 400) == pytest.approx(SCORE)
    steps, curves = run.values("val_loss")
    assert steps[score(curves, curves[0]).argmin()] == BEST


def test_a_share_of_a_loss_below_zero_is_no_percentage() -> None:
    run = recorded()
    below = replace(run, trajectory=run.trajectory.assign(val_loss=-run.trajectory["val_loss"] - 1))
    assert math.isfinite(validation_score(below))
    assert math.isnan(lowest_score(below, 400))
