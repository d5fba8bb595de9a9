"""The loop engine: the same numbers as a loop written by hand, what is logged, stopping and going on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from loops import METHODS, TRAINING, logged, loop_of, method, parameters, raw, same, settings, stop_after
from tiny_problem import Fine, Indignant, Raises, Tiny, TurnsNaN
from torch import Tensor, nn

import weighting
from benchmarks.contract import Batch, Data, Problem, Training
from benchmarks.harness import checkpoint
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.loop import DivergedError, StopRequested
from benchmarks.problems.multidigits import MultiDigits
from weighting import Observation, Weighter

TASKS = Tiny.all_tasks


def by_hand(
    problem: Problem, training: Training, weights: Tensor, seed: int, prepare: Callable[[nn.Module, int], None] | None = None
) -> tuple[nn.Module, list[list[float]]]:
    """What a user writes without any library: the model at the end and the raw losses of every step."""
    data, model = problem.data(seed, training), problem.model(seed)
    optimizer: torch.optim.Optimizer
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )
    elif training.optimizer == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    history = []
    for step in range(training.steps):
        losses = problem.losses(model, data.train_batch(step))
        history.append(losses.double().tolist())
        optimizer.zero_grad()
        (weights * losses).sum().backward()  # type: ignore[no-untyped-call]
        if prepare is not None:
            prepare(model, step)
        if training.lr_schedule == "cosine":
            factor = 0.1 + 0.45 * (1 + math.cos(math.pi * step / training.steps))
            optimizer.param_groups[0]["lr"] = training.lr * factor
        optimizer.step()
    return model, history


# ---- the arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"weight_decay": 0.1},
    ],
    ids=["adam", "sgd", "adamw", "adam decay"],
)
def test_equal_weights_are_plain_pytorch_bit_for_bit(changes: dict[str, Any]) -> None:
    training = settings(log_every=1, **changes)
    loop = loop_of(method("uniform"), training)
    loop.run()
    model, history = by_hand(Tiny(), training, torch.ones(3), 0)
    assert list(logged(loop, "train_loss").values()) == history
    # The loop ends with the model of the selected step; the last step is selected where the rule says so.
    last = loop_of(method("uniform"), training.model_copy(update={"selection": "last"}))
    last.run()
    assert same(parameters(last.model), parameters(model))


def test_equal_weights_are_plain_pytorch_on_multidigits() -> None:
    problem = MultiDigits(train_pairs=200, validation_pairs=50, test_pairs=50)
    training = problem.training.model_copy(update={"steps": 20, "log_every": 1, "selection": "last"})
    loop = loop_of(method("uniform"), training, problem)
    loop.run()
    model, history = by_hand(problem, training, torch.ones(3), 0)
    assert list(logged(loop, "train_loss").values()) == history
    assert same(parameters(loop.model), parameters(model))


def test_static_weights_are_the_coefficients_of_the_sum() -> None:
    training = settings(selection="last")
    loop = loop_of(method("static"), training)
    loop.run()
    model, _ = by_hand(Tiny(), training, torch.tensor([1.0, 0.5, 0.0]), 0)
    assert same(parameters(loop.model), parameters(model))
    other, _ = by_hand(Tiny(), training, torch.ones(3), 0)
    assert not same(parameters(loop.model), parameters(other))


@pytest.mark.parametrize(("rule", "total"), [("none", 1.5), ("sum_to_one", 1.0), ("sum_to_num_tasks", 3.0)])
def test_normalize(rule: str, total: float) -> None:
    training = settings(normalize=rule, selection="last")
    loop = loop_of(method("static"), training)
    loop.run()
    sums = [sum(weights) for weights in logged(loop, "weight").values()]
    assert sums == pytest.approx([total] * 4)
    model, _ = by_hand(Tiny(), training, torch.tensor([1.0, 0.5, 0.0]) * (total / 1.5), 0)
    for name, tensor in parameters(model).items():
        torch.testing.assert_close(loop.model.state_dict()[name], tensor)


class Cancels(Weighter):
    """Weights of both signs whose sum is nearly 0."""

    name = "cancels"
    answers_from = "state"

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(torch.tensor([1.0, -1.0, 1e-9], dtype=torch.float64), now)


def test_normalize_refuses_to_divide_by_nearly_zero() -> None:
    loop = loop_of(Cancels(3), settings(normalize="sum_to_one", selection="last"))
    with pytest.raises(RuntimeError, match=r"cancels: expected weights with a sum .* whose sum is 1e-09") as error:
        loop.run()
    assert "\n" not in str(error.value)
    loop_of(Cancels(3), settings(normalize="none", selection="last", steps=2)).run()


def test_cosine_schedule() -> None:
    training = settings(lr_schedule="cosine", selection="last", optimizer="sgd", lr=0.1)
    loop = loop_of(method("uniform"), training)
    loop.run()
    model, _ = by_hand(Tiny(), training, torch.ones(3), 0)
    for name, tensor in parameters(model).items():
        torch.testing.assert_close(loop.model.state_dict()[name], tensor)
    (group,) = loop.stepper.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.1 * (0.1 + 0.45 * (1 + math.cos(math.pi * 19 / 20))))


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1, 1]),
        ("linear", 0, [1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 1, [1, 1, 0.75, 0.5, 0.25]),
        ("cosine", 3, [1 / 3, 2 / 3, 1, 1, 0.55]),
        ("constant", 10, [0.1, 0.2, 0.3, 0.4, 0.5]),
    ],
)
def test_schedules_after_a_warm_up(schedule: str, warmup: int, factors: list[float]) -> None:
    training = settings(steps=5, lr_schedule=schedule, warmup_steps=warmup, selection="last", optimizer="sgd", lr=0.1)
    loop = loop_of(method("uniform"), training)
    loop.begin()
    found = []
    for _ in range(5):
        loop.train_step()
        found.append(loop.stepper.optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.1 * factor for factor in factors])


def test_grad_clip_bounds_the_total_gradient() -> None:
    def clip(model: nn.Module, step: int) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient.mul_(min(1.0, 0.05 / float(norm)))

    training = settings(grad_clip=0.05, optimizer="sgd", lr=0.1, selection="last")
    loop = loop_of(method("uniform"), training)
    loop.run()
    clipped, _ = by_hand(Tiny(), training, torch.ones(3), 0, clip)
    for name, tensor in parameters(clipped).items():
        torch.testing.assert_close(loop.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    free, _ = by_hand(Tiny(), training, torch.ones(3), 0)
    assert not torch.allclose(parameters(free)["shared.weight"], parameters(clipped)["shared.weight"], atol=1e-2)


# ---- identical by construction ---------------------------------------------------------------------------------------


def test_all_methods_start_alike() -> None:
    rows, prints = [], []
    for name in METHODS:
        loop = loop_of(method(name), settings(steps=5))
        prints.append(loop.fingerprints())
        loop.run()
        rows.append(loop.trajectory.frame().query("step == 0")[["task", "train_loss", "val_loss"]].reset_index(drop=True))
    assert len(set(prints)) == 1
    for row in rows[1:]:
        pd.testing.assert_frame_equal(rows[0], row, check_exact=True)
    assert not rows[0].isna().any(axis=None)


def test_single_task_runs_share_the_parameters_and_the_losses_of_the_first_step() -> None:
    whole = loop_of(method("uniform"), settings(steps=5))
    whole.run()
    expected = whole.trajectory.frame().query("step == 0").set_index("task")
    for task in TASKS:
        alone = loop_of(weighting.create("uniform", 1), settings(steps=5), Tiny(tasks=[task]))
        assert alone.initial_parameters == whole.initial_parameters
        alone.run()
        first = alone.trajectory.frame().iloc[0]
        assert first["train_loss"] == expected.loc[task, "train_loss"]
        assert first["val_loss"] == expected.loc[task, "val_loss"]


def test_another_seed_starts_otherwise() -> None:
    one, other = (loop_of(method("uniform"), seed=seed).fingerprints() for seed in (0, 1))
    assert one.initial_parameters != other.initial_parameters
    assert one.data != other.data
    assert one.data_order != other.data_order


# ---- what is logged --------------------------------------------------------------------------------------------------


def test_trajectory() -> None:
    """Rows at 0, 5, 10, 14, 15 and the end: multiples of both intervals, and the last step however it falls."""
    loop = loop_of(method("static"), settings(steps=17, log_every=5, evaluate_every=7))
    loop.run()
    table = loop.trajectory.frame()
    assert list(table.columns) == ["step", "replica", "task", "train_loss", "val_loss", "weight", "count", "probe.bias"]
    assert [str(table[name].dtype) for name in ("step", "replica")] == ["int64", "int32"]
    assert {str(table[name].dtype) for name in ("train_loss", "val_loss", "weight", "probe.bias")} == {"float64"}
    steps = [0, 5, 7, 10, 14, 15, 17]
    assert table["step"].tolist() == [step for step in steps for _ in TASKS]
    assert table["task"].tolist() == list(TASKS) * len(steps)
    assert set(table["replica"]) == {0}
    last = table["step"] == 17
    assert table.loc[last, ["train_loss", "weight"]].isna().all(axis=None)
    assert table.loc[~last, ["train_loss", "weight"]].notna().all(axis=None)
    assert table.loc[table["val_loss"].notna(), "step"].unique().tolist() == [0, 7, 14, 17]
    assert table.loc[~last].groupby("task")["weight"].unique().map(list).to_dict() == {
        "small": [1.0],
        "medium": [0.5],
        "large": [0.0],
    }


def test_losses_and_probes_are_those_of_their_step() -> None:
    problem, training = Tiny(), settings(steps=6, log_every=2, evaluate_every=3, selection="last")
    loop = loop_of(method("uniform"), training)
    loop.run()
    data = problem.data(0, training)
    table = loop.trajectory.frame()
    for step in (0, 2, 3, 4, 6):
        rows = table[table["step"] == step]
        if step == 0:
            model = problem.model(0)
        else:
            model, _ = by_hand(problem, training.model_copy(update={"steps": step}), torch.ones(3), 0)
        bias = float(problem.probe(model)["bias"])
        assert rows["probe.bias"].tolist() == [bias] * 3
        if step < 6:
            assert rows["train_loss"].tolist() == raw(problem, model, data.train_batch(step)).double().tolist()
        if step % 3 == 0:
            with torch.no_grad():
                expected = problem.evaluate(model, data.batches("validation")).losses
            assert rows["val_loss"].tolist() == expected.tolist()


def test_progress_is_told_after_every_block() -> None:
    told: list[tuple[int, dict[str, float]]] = []
    loop_of(method("uniform"), on_log=lambda step, losses: told.append((step, losses))).run()
    assert [step for step, _ in told] == [5, 10, 15, 20]
    assert all(list(losses) == list(TASKS) for _, losses in told)


# ---- which step is scored --------------------------------------------------------------------------------------------


def test_the_best_validation_is_scored() -> None:
    """So long and fast that the model gets worse again: the lowest mean relative loss lies inside the run."""
    training = settings(steps=60, lr=0.5, evaluate_every=5, optimizer="adam")
    loop = loop_of(method("uniform"), training)
    outcome = loop.run()
    val = logged(loop, "val_loss")
    score = {step: sum(now / first for now, first in zip(val[step], val[0], strict=True)) / 3 for step in val}
    best = min(score, key=lambda step: score[step])
    assert 0 < best < 60
    assert (outcome.selection.rule, outcome.selection.step) == ("best_validation", best)
    assert outcome.validation == {f"{task}/mse": loss for task, loss in zip(TASKS, val[best], strict=True)}
    model, _ = by_hand(Tiny(), training.model_copy(update={"steps": best}), torch.ones(3), 0)
    problem = Tiny()
    with torch.no_grad():
        expected = problem.evaluate(model, problem.data(0, training).batches("test")).metrics
    assert outcome.test == expected


def test_the_last_step_is_scored_where_the_rule_says_so() -> None:
    training = settings(steps=60, lr=0.5, evaluate_every=5, selection="last")
    loop = loop_of(method("uniform"), training)
    outcome = loop.run()
    assert (outcome.selection.rule, outcome.selection.step) == ("last", 60)
    val = loop.trajectory.frame().query("step == 60").set_index("task")["val_loss"]
    assert outcome.validation == {f"{task}/mse": val[task] for task in TASKS}


def test_test_is_measured_once() -> None:
    class Counting(Tiny):
        def data(self, seed: int, training: Training) -> Data:
            data, batches = super().data(seed, training), []

            def counted(split: Any) -> Any:
                batches.append(split)
                return type(data).batches(data, split)

            data.batches = counted  # type: ignore[method-assign]
            self.read = batches
            return data

    problem = Counting()
    loop_of(method("uniform"), problem=problem).run()
    assert problem.read == ["validation"] * 3 + ["test"]


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["nan", "infinite"])
def test_a_loss_that_is_not_finite_is_a_divergence_with_its_step(spoil: str) -> None:
    loop = loop_of(method("uniform"), problem=Tiny(spoil=spoil, spoil_at=12))
    with pytest.raises(DivergedError, match="loss of small is not finite") as caught:
        loop.run()
    assert caught.value.step == 12
    assert loop.trajectory.frame()["step"].max() == 10


def test_a_weight_that_is_not_finite_is_a_divergence_with_its_step() -> None:
    with pytest.raises(DivergedError, match="weight of small is not finite") as caught:
        loop_of(TurnsNaN(3, at=7)).run()
    assert caught.value.step == 7


def test_a_divergence_is_known_even_if_the_weighter_raises_over_it() -> None:
    loop = loop_of(Indignant(3), problem=Tiny(spoil="nan", spoil_at=3))
    with pytest.raises(ValueError, match="expected every task"):
        loop.run()
    assert loop.bad_step == 3


def test_parameters_that_stop_being_finite_in_the_last_step_are_a_divergence() -> None:
    """The total of every step is finite, and so nothing but the evaluation can see it."""

    class Sudden(Tiny):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            losses = super().losses(model, batch)
            if losses.requires_grad:
                losses.register_hook(lambda gradient: gradient * float("nan"))  # type: ignore[no-untyped-call]
            return losses

    with pytest.raises(DivergedError, match="validation loss of small is not finite") as caught:
        loop_of(method("uniform"), settings(steps=1), Sudden()).run()
    assert caught.value.step == 1


def test_what_a_weighter_raises_is_not_swallowed() -> None:
    with pytest.raises(ArithmeticError, match="no weights today"):
        loop_of(Raises(3, at=7)).run()


# ---- stopping and going on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("changes", [{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9, "selection": "last"}])
def test_a_resumed_run_ends_bit_identically(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """StopRequested twice, at places that are no multiple of anything the method counts."""
    training = settings(**TRAINING, **changes)
    whole = loop_of(method(name), training)
    expected = whole.run()
    loops = []
    for blocks in (3, 9):
        loop = loop_of(method(name), training, checkpoint=Checkpoint(tmp_path, "run"), should_stop=stop_after(blocks))
        with pytest.raises(StopRequested):
            loop.run()
        loops.append(loop)
    assert [loop.step for loop in loops] == [7, 28]
    last = loop_of(method(name), training, checkpoint=Checkpoint(tmp_path, "run"))
    outcome = last.run()
    assert last.resumed == 2
    pd.testing.assert_frame_equal(last.trajectory.frame(), whole.trajectory.frame(), check_exact=True)
    assert (outcome.selection, outcome.validation, outcome.test) == (expected.selection, expected.validation, expected.test)
    assert outcome.costs.extra_forwards == expected.costs.extra_forwards
    assert outcome.costs.extra_backwards == expected.costs.extra_backwards
    assert sum(last.stopwatch.steps) == 40
    assert same(parameters(last.model), parameters(whole.model))
    assert same(last.weighter.state_dict(), whole.weighter.state_dict())


def test_a_run_stopped_after_its_last_step_needs_only_its_score(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path, "run")
    with pytest.raises(StopRequested):
        loop_of(Fine(3), checkpoint=place, should_stop=stop_after(4)).run()
    fine = Fine(3)
    outcome = loop_of(fine, checkpoint=place).run()
    assert int(fine.steps) == 20
    expected = loop_of(Fine(3)).run()
    assert (outcome.selection, outcome.test) == (expected.selection, expected.test)


def in_format(place: Checkpoint, number: int) -> bytes:
    state = place.load(torch.device("cpu"))
    assert state is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", number)
        place.save(state)
    return place.path.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "half", "text", "other format"])
def test_a_damaged_checkpoint_is_a_start_from_nothing(damage: str, tmp_path: Path) -> None:
    place = Checkpoint(tmp_path, "run")
    with pytest.raises(StopRequested):
        loop_of(Fine(3), checkpoint=place, should_stop=stop_after(2)).run()
    content = place.path.read_bytes()
    damaged = {"empty": b"", "half": content[: len(content) // 2], "text": b"not a checkpoint"}
    damaged["other format"] = in_format(place, checkpoint.FORMAT - 1)
    place.path.write_bytes(damaged[damage])
    loop = loop_of(fine := Fine(3), checkpoint=place)
    outcome = loop.run()
    assert (loop.resumed, int(fine.steps)) == (0, 20)
    assert outcome.test == loop_of(Fine(3)).run().test
