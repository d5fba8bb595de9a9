"""What a method is shown: losses before and after the step, validation, gradients, and nothing that it does not want."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loops import METHODS, loop_of, method, raw, settings
from tiny_problem import RowsTiny, Spy, Tiny
from torch import Tensor, nn

from benchmarks.contract import Batch, Data, Problem
from benchmarks.harness.loop import Loop
from weighting import Needs


def observed(problem: Problem, asks: Needs | None = None) -> tuple[Spy, list[nn.Module], Data, Loop]:
    """A spy after four steps, with a copy of the model before each step and after the last."""
    training = settings(steps=4, log_every=1)
    spy = Spy(3, asks=asks)
    loop = loop_of(spy, training, problem)
    models = []

    def copy() -> nn.Module:
        model = problem.model(0)
        model.load_state_dict(loop.model.state_dict())
        return model

    loop.begin()
    for _ in range(4):
        models.append(copy())
        loop.train_step()
    return spy, [*models, copy()], problem.data(0, training), loop


def test_losses_are_seen_before_and_after_the_step_on_the_same_batch() -> None:
    spy, models, data, _ = observed(problem := Tiny())
    for step, seen in enumerate(spy.updates):
        batch = data.train_batch(step)
        assert seen.losses is not None and seen.losses_after is not None and seen.val_losses is not None
        assert torch.equal(seen.losses, raw(problem, models[step], batch))
        assert torch.equal(seen.losses_after, raw(problem, models[step + 1], batch))
        assert torch.equal(seen.val_losses, raw(problem, models[step + 1], data.validation_batch(step)))
        assert not torch.equal(seen.losses, seen.losses_after)
        assert not any(tensor.requires_grad for tensor in (seen.losses, seen.losses_after, seen.val_losses))


def test_several_validation_batches_are_seen_as_one() -> None:
    problem = Tiny()
    loop = loop_of(Spy(3, asks=Needs.VAL_LOSSES), settings(steps=4, evaluate_every=4, validation_batches=3), problem)
    found = loop.stepper.validation_losses(2).losses
    batches = [problem.data(0, loop.training).validation_batch(index) for index in (6, 7, 8)]
    together = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    assert found is not None
    assert torch.allclose(found.float(), raw(problem, loop.model.eval(), together))
    assert loop.run().costs.extra_forwards == 3 + 3 / 4  # one look here, four in training


def test_the_start_sees_the_first_batch_and_the_whole_validation_split() -> None:
    spy, models, data, _ = observed(problem := Tiny())
    (first,) = spy.started
    assert first.losses is not None and first.val_losses is not None
    assert torch.equal(first.losses, raw(problem, models[0], data.train_batch(0)))
    with torch.no_grad():
        expected = problem.evaluate(models[0], data.batches("validation")).losses
    assert torch.equal(first.val_losses, expected)


@pytest.mark.parametrize("kind", [Tiny, RowsTiny])
def test_gradients_are_those_of_the_unweighted_losses(kind: type[Problem]) -> None:
    spy, models, data, loop = observed(problem := kind())
    for step, seen in enumerate(spy.updates):
        model, losses = models[step], problem.losses(models[step], data.train_batch(step))
        shared = problem.shared_layer(model)
        assert isinstance(shared, nn.Module)
        layer = list(shared.parameters())
        norms, rows = [], []
        for loss in losses:
            parts = torch.autograd.grad(loss, layer, retain_graph=True)
            norms.append(torch.cat([part.flatten() for part in parts]).norm())
            rows.append(torch.cat([part.flatten() for part in parts]))
        torch.testing.assert_close(seen.grad_norms, torch.stack(norms), check_dtype=False)
        # The layer is all that the tasks share: the heads are in no Gramian.
        jacobian = torch.stack(rows)
        torch.testing.assert_close(seen.gramian, jacobian @ jacobian.T, check_dtype=False)
    assert loop.stepper.norms is not None
    # They follow from the gradients of all tasks, which the Gramian asks for anyway.
    assert loop.stepper.norms.extra_backwards == 0


def test_norms_by_rows_survive_a_weight_of_zero() -> None:
    """A weight of zero leaves nothing in the one backward pass, so the task's norm takes a pass of its own."""

    class Zero(Spy):
        name = "zero"

        def weights(self, now: Any) -> Tensor:
            weights: Tensor = super().weights(now) * torch.tensor([1.0, 0.0, 1.0])
            return weights

    training = settings(steps=2, log_every=1)
    rows, plain = (Zero(3, asks=Needs.GRAD_NORMS) for _ in range(2))
    loops = [loop_of(rows, training, RowsTiny()), loop_of(plain, training, Tiny())]
    for loop in loops:
        loop.run()
        assert loop.stepper.norms is not None
        assert loop.stepper.norms.extra_backwards == 2 * 3
    for one, other in zip(rows.updates, plain.updates, strict=True):
        assert one.grad_norms is not None
        assert (one.grad_norms > 0).all()
        torch.testing.assert_close(one.grad_norms, other.grad_norms)


@pytest.mark.parametrize(
    ("asks", "forwards", "backwards"),
    [
        (Needs.NOTHING, 0, 0),
        (Needs.VAL_LOSSES, 1, 0),
        (Needs.LOSSES_AFTER_STEP, 1, 0),
        (Needs.GRAD_NORMS, 0, 3),
        (Needs.GRAMIAN, 0, 2),
        (Spy.needs, 2, 2),
        (Needs.CROSS_GRAMIAN, 1, 2 + 3),
        (Needs.CROSS_GRAMIAN | Needs.VAL_LOSSES, 1, 2 + 3),
    ],
)
def test_only_what_is_wanted_is_computed_and_charged(asks: Needs, forwards: int, backwards: int) -> None:
    class Counting(Tiny):
        calls = 0

        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            Counting.calls += 1
            return super().losses(model, batch)

    spy = Spy(3, asks=asks)
    across = Needs.CROSS_GRAMIAN in asks
    if across:
        spy.needs = spy.needs | Needs.CROSS_GRAMIAN  # type: ignore[misc]
    training = settings(steps=4, evaluate_every=4)
    outcome = loop_of(spy, training, Counting()).run()
    assert outcome.costs.extra_forwards == forwards
    assert outcome.costs.extra_backwards == backwards
    # A look at how the gradients of tasks can be had, one for the start, two evaluations of validation and one of test, four
    # steps; a look at how those of validation can be had.
    assert Counting.calls == 1 + 1 + 2 + 1 + 4 * (1 + forwards) + across
    fields = {
        Needs.VAL_LOSSES: "val_losses",
        Needs.LOSSES_AFTER_STEP: "losses_after",
        Needs.GRAD_NORMS: "grad_norms",
        Needs.GRAMIAN: "gramian",
        Needs.CROSS_GRAMIAN: "cross_gramian",
    }
    for seen in spy.updates:
        assert {need for need, name in fields.items() if getattr(seen, name) is not None} == set(asks)
    # What follows from the gradients of all tasks is known before the step, all else after it.
    early = Needs.GRAMIAN | Needs.GRAD_NORMS if Needs.GRAMIAN in asks else Needs.NOTHING
    for seen in spy.shown:
        assert {need for need, name in fields.items() if getattr(seen, name) is not None} == set(asks & early)


def test_costs_of_listed_methods() -> None:
    training = settings(steps=12)
    found = {
        name: (costs.extra_forwards, costs.extra_backwards)
        for name in METHODS
        for costs in [loop_of(method(name), training).run().costs]
    }
    assert found == {
        "uniform": (0, 0),
        "static": (0, 0),
        "random": (0, 0),
        "gradnorm": (0, 3),
        "dwa": (0, 0),
        "uncertainty": (0, 0),
        "famo": (1, 0),
        "famo next_batch": (0, 0),
        "coba": (1, 0),
        "coba update_every": (4 / 12, 0),
        "coba_mftcoder": (11 / 12, 0),
        "coba_mftcoder update_every": (5 / 12, 0),
    }
