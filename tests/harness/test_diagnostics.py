"""Flags: each is raised where it should be, and not raised where it should not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_runs
import pytest
import torch
from tiny_problem import Tiny
from torch import Tensor

import weighting
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.contract import Training
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.diagnostics import WeightDiagnostics
from benchmarks.harness.loop import DivergedError, Loop, StopRequested
from benchmarks.harness.step import StepResult
from benchmarks.records.schema import Flag, Run
from benchmarks.report.suite_report import write_report
from weighting import Observation, Weighter

STEPS = 20


class Scripted(Weighter):
    """Gives ``rule(step)`` at each step."""

    name = "scripted"
    guards = {"third": "every third step"}

    def __init__(self, rule: Callable[[int], list[float]]) -> None:
        super().__init__(3)
        self.rule = rule
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.steps: Tensor

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(torch.tensor(self.rule(int(self.steps)), dtype=torch.float64), now)

    def update(self, after: Observation) -> None:
        self.steps.add_(1)


class Guarded(Scripted):
    """Takes its guard in steps 0, 3, 6, ..."""

    name = "guarded"

    def update(self, after: Observation) -> None:
        self.count_guard("third", self.steps % 3 == 0)
        super().update(after)


def loop_of(weighter: Weighter, checkpoint: Checkpoint | None = None, **changes: Any) -> Loop:
    training = Tiny.training.model_copy(update={"steps": STEPS, **changes})
    problem = Tiny()
    return Loop(problem, problem.data(0, training), weighter, training, 0, device=torch.device("cpu"), checkpoint=checkpoint)


def flags(weighter: Weighter, **changes: Any) -> dict[str, Flag]:
    loop = loop_of(weighter, **changes)
    loop.run()
    return {flag.name: flag for flag in loop.diagnostics.flags(weighter, loop.training, None)}


def moving(step: int) -> list[float]:
    return [1.0 + 0.02 * step, 1.0, 1.0 - 0.02 * step]


RULES: dict[str, tuple[Callable[[int], list[float]], set[str]]] = {
    "nothing to tell": (moving, set()),
    "never moved": (lambda step: [0.5, 1.0, 1.5], {"never_moved"}),
    "moves by 0.9 %": (lambda step: [1.0 + 0.009 * (step % 2), 1.0, 1.0], {"like_uniform"}),
    "moves by 3 % once": (lambda step: [1.03 if step == 13 else 1.0, 1.0, 1.0], set()),
    "sum grows by 2.5": (lambda step: [1.0 + 4.5 * step / (STEPS - 1), 1.0, 1.0], {"sum_drifted"}),
    "sum grows by 1.5": (lambda step: [1.0 + 1.5 * step / (STEPS - 1), 1.0, 1.0], set()),
    "goes back and forth": (lambda step: [1.0 + 0.5 * (step % 2), 1.0, 1.5 - 0.5 * (step % 2)], {"oscillates"}),
    "goes back and forth, a little": (lambda step: [1.0 + 0.1 * (step % 2), 1.0, 1.1 - 0.1 * (step % 2)], set()),
    "goes there and back once": (lambda step: [2.0 - abs(step - 10) / 10, 1.0, 1.0 + abs(step - 10) / 10], set()),
    "negative in two steps": (lambda step: [-0.01 if step in (7, 12) else 1.0, 1.5, 0.5], {"negative_weights"}),
}


@pytest.mark.parametrize("case", RULES)
def test_flags_of_the_weights(case: str) -> None:
    rule, expected = RULES[case]
    assert set(flags(Scripted(rule))) == expected


def test_words_and_numbers() -> None:
    negative = flags(Scripted(RULES["negative in two steps"][0]))["negative_weights"]
    assert negative == Flag(name="negative_weights", text="a weight below zero in 2 steps, first in step 7", steps=2)
    drifted = flags(Scripted(RULES["sum grows by 2.5"][0]))["sum_drifted"]
    assert drifted.text == "sum of weights between 3 and 7.5 (first 3): a factor on the learning rate"


@pytest.mark.parametrize("name", ["uniform", "static"])
def test_constant_methods_need_not_move(name: str) -> None:
    assert flags(weighting.create(name, 3)) == {}


def test_guards_are_counted() -> None:
    assert flags(Guarded(moving))["guard:third"] == Flag(name="guard:third", text="every third step (7 times)", steps=7)
    assert "guard:third" not in flags(Scripted(moving))


def test_the_harness_owns_up_to_clipping_and_rescaling() -> None:
    some = flags(Scripted(moving), grad_clip=1e-6, normalize="sum_to_one")
    assert some["clipped"].steps == STEPS
    assert some["renormalised"].text == "all weights were rescaled (sum to one)"
    assert set(flags(Scripted(moving), grad_clip=1e6)) == set()


def test_weights_are_watched_as_the_method_gave_them() -> None:
    assert "sum_drifted" in flags(Scripted(RULES["sum grows by 2.5"][0]), normalize="sum_to_one")


def test_a_loss_that_is_not_finite_is_named() -> None:
    training = Training(steps=STEPS)
    (flag,) = WeightDiagnostics(["one"]).flags(Scripted(moving), training, "loss of small is not finite")
    assert flag == Flag(name="not_finite", text="loss of small is not finite")
    loop = loop_of(Scripted(lambda step: [float("nan"), 1.0, 1.0]))
    with pytest.raises(DivergedError) as told:
        loop.run()
    assert "not_finite" in {flag.name for flag in loop.diagnostics.flags(loop.weighter, training, told.value.reason)}


def test_a_resumed_run_has_the_same_flags(tmp_path: Path) -> None:
    rule = RULES["negative in two steps"][0]
    stopped = loop_of(Guarded(rule), Checkpoint(tmp_path, "run"))
    asked = iter([False, True])
    stopped.should_stop = lambda: next(asked)
    with pytest.raises(StopRequested):
        stopped.run()
    resumed = loop_of(Guarded(rule), Checkpoint(tmp_path, "run"))
    resumed.run()
    assert resumed.resumed == 1
    assert {flag.name: flag for flag in resumed.diagnostics.flags(resumed.weighter, resumed.training, None)} == flags(
        Guarded(rule)
    )


def test_replicas_and_absent_tasks() -> None:
    """One replica of two drifts; an absent task's zero is neither a move nor a negative weight."""
    diagnostics = WeightDiagnostics(["one", "two"])
    weights = [torch.tensor([[1.0, 1.0], [1.0, 1.0 + 3 * step]]) for step in range(3)]
    diagnostics.observe([step_with(row) for row in weights], None)
    assert [flag.name for flag in diagnostics.flags(weighting.create("dwa", 2), Training(steps=3), None)] == ["sum_drifted"]
    diagnostics = WeightDiagnostics(["one", "two"])
    absent = [torch.tensor([True, False]), torch.tensor([True, True]), torch.tensor([False, True])]
    weights = [torch.where(here, torch.tensor([0.5, 2.0]), torch.zeros(2)) for here in absent]
    diagnostics.observe([step_with(row, here) for row, here in zip(weights, absent, strict=True)], None)
    assert [flag.name for flag in diagnostics.flags(weighting.create("dwa", 2), Training(steps=3), None)] == ["never_moved"]
    assert diagnostics.mean_weights() == {"one": 0.5, "two": 2.0}


def step_with(weights: Tensor, present: Tensor | None = None) -> StepResult:
    return StepResult(torch.ones_like(weights), present, weights, weights, None)


def test_one_task_in_a_batch_is_held_against_its_own_past() -> None:
    """Alone, a task's weight is always the mean weight; from 0.1 to 0.9 it is not like uniform for all that."""
    for values, flagged in (([0.1, 0.5, 0.5, 0.9], False), ([0.5, 0.501, 0.5, 0.499], True)):
        diagnostics = WeightDiagnostics(["one", "two"])
        for step, value in enumerate(values):
            here = torch.tensor([step % 2 == 0, step % 2 == 1])
            diagnostics.observe([step_with(torch.where(here, value, 0.0), here)], None)
        names = [flag.name for flag in diagnostics.flags(weighting.create("dwa", 2), Training(steps=4), None)]
        assert ("like_uniform" in names) == flagged


def test_an_oscillation_is_seen_through_absent_steps_replicas_and_blocks() -> None:
    """The second replica's second task swings; steps without it neither end the swing nor are one."""
    diagnostics = WeightDiagnostics(["one", "two"])
    for block in range(6):
        results = []
        for step in range(4):
            here = torch.tensor([[True, True], [True, step % 2 == 0]])
            value = 1.0 if (2 * block + step // 2) % 2 else 2.0
            results.append(step_with(torch.tensor([[1.0, 1.0], [1.0, value]]) * here, here))
        diagnostics.observe(results, None)
    flags = {flag.name: flag for flag in diagnostics.flags(weighting.create("dwa", 2), Training(steps=24), None)}
    text = "the weight of two went 11 times over its range, standard deviation 33% of its mean"
    assert flags["oscillates"] == Flag(name="oscillates", text=text)


def test_tables_show_flags_and_the_terminal_the_doubtful_ones(tmp_path: Path) -> None:
    told = (
        Flag(name="never_moved", text="the weights were the same at all 400 steps", steps=400),
        Flag(name="sum_drifted", text="sum of weights between 1 and 3 (first 1): a factor on the learning rate"),
    )
    runs = [fake_runs.make(name, seed) for name in ("uniform", "famo") for seed in (0, 1)]
    runs = [
        Run(run.record.model_copy(update={"flags": told}), run.trajectory) if (run.label, run.seed) == ("famo", 1) else run
        for run in runs
    ]
    made = write_report(suite_tables(fake_runs.write_suite(tmp_path / "suite", runs)), tmp_path / "plots")
    assert "! pictures: famo: never moved on 1 of 2 seeds" in made.text
    assert "sum drifted" not in made.text
    page = (tmp_path / "suite" / "report.md").read_text(encoding="utf-8")
    assert "| famo | never moved | 1 | the weights were the same at all 400 steps |" in page
    assert "sum of weights between 1 and 3" in page
