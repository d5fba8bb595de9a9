"""The gradients of all tasks are those of autograd, by whichever passes they are taken, and so is the update they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from in_double import (
    CodeLmInDouble,
    FamoToyInDouble,
    GradNormToyInDouble,
    MultiDigitsInDouble,
    NoisyInDouble,
    RowsInDouble,
    SparseInDouble,
    TinyInDouble,
)
from loops import loop_of
from tiny_problem import Network, Spy
from torch import Tensor, nn

from benchmarks.contract import Batch, Problem, Training
from benchmarks.harness.loop import Loop
from weighting import Needs, Observation, Weighter, create
from weighting.db_mtl import DualBalancing


class Uneven(Spy):
    """Weights that differ between tasks, negative ones and 0 among them, for who asks for the gradients of all tasks."""

    name = "uneven"
    needs = Needs.GRAMIAN | Needs.GRAD_NORMS

    def weights(self, now: Observation) -> Tensor:
        self.shown.append(now)
        return self.as_weights(torch.tensor([0.5, -0.25, 0.0, 2.0, 1.5] * 2).double()[: self.num_tasks], now)


class SharedUneven(Uneven):
    """Of the shared parameters alone."""

    acts_on = "shared"


def small_code() -> CodeLmInDouble:
    return CodeLmInDouble(**CodeLmInDouble.small)


PROBLEMS: dict[str, Any] = {
    "tiny": TinyInDouble,
    "rows": RowsInDouble,
    "sparse": SparseInDouble,
    "batch norm": lambda: NoisyInDouble(kind="batch norm"),
    "dropout": lambda: NoisyInDouble(kind="dropout"),
    "numpy": lambda: NoisyInDouble(kind="numpy"),
    "multidigits": MultiDigitsInDouble,
    "gradnorm_toy": GradNormToyInDouble,
    "famo_toy": FamoToyInDouble,
    "code_lm": small_code,
}
FLOAT32 = 1e-7
"""Llama's norms are taken in float32, whatever the dtype of the model."""
NOISY = ("batch norm", "dropout", "numpy")
"""With noise, a micro-batch has other draws and other statistics: another model."""
EACH = pytest.mark.parametrize("name", PROBLEMS)


def stepped(problem: Problem, weighter: Weighter, **changes: Any) -> Loop:
    """A loop before its first step."""
    given = {"steps": 3, "batch_size": min(6, problem.training.batch_size), "optimizer": "sgd", "lr": 1e-3, **changes}
    training = Training.model_validate({**problem.training.model_dump(), **given})
    loop = loop_of(weighter, training, problem)
    loop.begin()
    return loop


def weighter(problem: Problem, kind: type[Uneven] = Uneven, **more: Any) -> Uneven:
    return kind(problem.num_tasks, batch_shape=problem.batch_shape, **more)


def graph(loop: Loop) -> Tensor:
    """The losses of the first step, with graph."""
    # The draws of the step's own pass.
    return loop.stepper._forward(0, 0, loop.stepper.data.train_batch(0))


def summed(losses: Tensor, weights: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the weighted total, of which absent tasks and those of weight 0 are no part."""
    kept = [(w * loss).sum() for w, loss in zip(weights.unbind(-1), losses.unbind(-1), strict=True) if bool((w != 0).any())]
    found = torch.autograd.grad(sum(kept[1:], kept[0]), list(parameters), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@EACH
@pytest.mark.parametrize("kind", [Uneven, SharedUneven])
def test_the_update_is_that_of_the_weighted_total(name: str, kind: type[Uneven]) -> None:
    problem = PROBLEMS[name]()
    loop = stepped(problem, weighter(problem, kind))
    tasks = loop.stepper.task_gradients
    assert tasks is not None
    losses, counts = graph(loop), problem.counts(loop.stepper.data.train_batch(0))
    absent = torch.zeros_like(losses, dtype=torch.bool) if counts is None else counts <= 0
    weights = loop.weighter.weights(Observation(losses=losses, counts=counts))
    plain = torch.where(absent, 0.0, torch.ones_like(weights))
    shared = summed(losses, weights, tasks.shared)
    own = summed(losses, weights if kind is Uneven else plain, tasks.own) if tasks.own else []
    result = loop.train_step()
    assert torch.equal(result.weights, weights)
    torch.testing.assert_close(result.losses[~absent], losses.detach()[~absent], rtol=1e-12, atol=1e-12)
    for parameter, expected in zip([*tasks.shared, *tasks.own], [*shared, *own], strict=True):
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=FLOAT32 if name == "code_lm" else 1e-12)


@EACH
def test_gramian_and_norms_are_those_of_autograd(name: str) -> None:
    problem = PROBLEMS[name]()
    spy = weighter(problem)
    loop = stepped(problem, spy)
    tasks, norms = loop.stepper.task_gradients, loop.stepper.norms
    assert tasks is not None and norms is not None
    losses, dims = graph(loop), len(problem.batch_shape)
    shared, layer = (
        torch.stack([_row(loss, parameters, dims) for loss in losses.unbind(-1)], dim=-2)
        for parameters in (tasks.shared, norms.parameters)
    )
    there = ~loop.train_step().absent
    (seen,) = spy.updates
    assert seen.gramian is not None and seen.grad_norms is not None
    both = there.unsqueeze(-1) & there.unsqueeze(-2)
    torch.testing.assert_close(seen.gramian[both], (shared @ shared.mT)[both], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(seen.grad_norms[there], layer.norm(dim=-1)[there], rtol=1e-11, atol=1e-12)


def _row(loss: Tensor, parameters: Sequence[Tensor], dims: int) -> Tensor:
    found = torch.autograd.grad(loss.sum(), list(parameters), retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten(dims) for p, g in zip(parameters, found, strict=True)], -1
    )


@pytest.mark.parametrize("name", sorted({*PROBLEMS} - {*NOISY}))
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_add_up_before_the_gramian(name: str, parts: int) -> None:
    problem = PROBLEMS[name]()
    whole, split = weighter(problem), weighter(problem)
    size = min(6, problem.training.batch_size)
    loops = [stepped(problem, whole, batch_size=size), stepped(PROBLEMS[name](), split, batch_size=size, accumulate=parts)]
    for loop in loops:
        loop.train_step()
    for one, other in zip(whole.updates, split.updates, strict=True):
        assert one.gramian is not None and other.gramian is not None
        there = torch.ones_like(one.gramian[..., 0], dtype=torch.bool) if one.present is None else one.present
        both = there.unsqueeze(-1) & there.unsqueeze(-2)
        torch.testing.assert_close(other.gramian[both], one.gramian[both], rtol=1e-10, atol=1e-13)
    for found, expected in zip(loops[1].model.parameters(), loops[0].model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---- before and after the step ---------------------------------------------------------------------------------------


class Across(Uneven):
    """Asks for the products of gradients after the step with those before it, and for the losses that go with them."""

    name = "across"
    needs = Needs.CROSS_GRAMIAN | Needs.VAL_LOSSES


def validation_rows(loop: Loop, number: int, shared: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients, losses and counts of a step's validation mini-batches as one, under the model as it is."""
    problem, several = loop.problem, loop.training.validation_batches
    batches = [loop.data.validation_batch(index) for index in range(number * several, (number + 1) * several)]
    losses = [problem.losses(loop.model.eval(), batch) for batch in batches]
    counts = [problem.counts(batch) for batch in batches]
    loop.model.train()
    whole = losses[0]
    if several > 1:
        units = torch.stack(
            [torch.ones_like(loss) if own is None else own for loss, own in zip(losses, counts, strict=True)]
        )
        # A task that is absent from a batch has no number there.
        sums = torch.where(units > 0, torch.stack(losses), 0.0) * units
        whole = sums.sum(0) / units.sum(0).clamp(min=1)
    present = None if counts[0] is None else torch.stack([own for own in counts if own is not None]).sum(0) > 0
    dims = len(problem.batch_shape)
    return torch.stack([_row(loss, shared, dims) for loss in whole.unbind(-1)], dim=-2), whole.detach(), present


@pytest.mark.parametrize(
    ("name", "several", "parts"),
    [
        (name, several, parts)
        for name in PROBLEMS
        for several, parts in ((1, 1), (2, 1), (1, 2))
        if parts == 1 or name not in NOISY
    ],
)
def test_products_across_the_step_are_those_of_autograd(name: str, several: int, parts: int) -> None:
    problem = PROBLEMS[name]()
    spy = weighter(problem, Across)
    more = {} if parts == 1 else {"accumulate": parts}
    # Clipping changes the step, and neither of the gradients.
    loop = stepped(problem, spy, validation_batches=several, grad_clip=0.1, **more)
    tasks, dims = loop.stepper.task_gradients, len(problem.batch_shape)
    assert tasks is not None
    compared = 0
    for number in range(3):
        batch = loop.data.train_batch(number)
        losses = loop.stepper._forward(number, 0, batch)
        before = torch.stack([_row(loss, tasks.shared, dims) for loss in losses.unbind(-1)], dim=-2)
        loop.train_step()
        after, val_losses, val_present = validation_rows(loop, number, tasks.shared)
        seen = spy.updates[-1]
        assert seen.cross_gramian is not None and seen.val_losses is not None
        there = torch.ones_like(losses, dtype=torch.bool) if seen.present is None else seen.present
        val_there = torch.ones_like(there) if val_present is None else val_present.expand_as(there)
        both = val_there.unsqueeze(-1) & there.unsqueeze(-2)
        expected = after @ before.mT
        # Llama's norms are taken in float32.
        rtol, atol = (1e-4, FLOAT32) if name == "code_lm" else (1e-11, 1e-12)
        torch.testing.assert_close(seen.cross_gramian[both], expected[both], rtol=rtol, atol=atol)
        assert bool((seen.cross_gramian[~both] == 0).all())
        torch.testing.assert_close(seen.val_losses[val_there], val_losses[val_there], rtol=1e-6, atol=1e-12)
        compared += int(both.sum())
        # As they were before the step, or the transposed, would be found.
        assert name == "code_lm" or not torch.allclose(seen.cross_gramian[both], expected.mT[both], rtol=1e-6)
    assert compared
    if name == "sparse":
        assert compared < 27


@pytest.mark.parametrize("grouped", [True, False])
def test_validation_passes_are_the_cheapest_that_are_right_in_evaluation_mode(grouped: bool) -> None:
    """Dropout draws in training alone: there every task takes a pass of its own, and none in validation.

    The shared layer's rows are groups of tasks, those of the heads are not: they are not asked for in validation.
    """

    class Rested(Told):
        rows_belong_to_tasks = grouped

        def model(self, seed: int) -> nn.Module:
            model = super().model(seed)
            assert isinstance(model, Network)
            model.shared.register_forward_hook(
                lambda layer, inputs, output: nn.functional.dropout(output, 0.1, training=layer.training)
            )
            return model

    problem = Rested()
    loop = stepped(problem, weighter(problem, Across))
    used = loop.task_gradients
    assert used is not None
    assert (used.way, used.validation_way) == ("a_pass_each", "row_blocks" if grouped else "own_rows")
    loop.train_step()
    # The forward pass of a validation batch; two backward passes more in training, one in validation.
    assert loop.stepper.extra == (1, 2 + 1, 0)


@pytest.mark.parametrize("name", ["tiny", "code_lm"])
def test_two_jacobians_at_most_are_held(name: str) -> None:
    problem = PROBLEMS[name]()
    loop = stepped(problem, weighter(problem, Across))
    tasks, passes = loop.stepper.task_gradients, loop.stepper.validation_passes
    assert tasks is not None and passes is not None
    loop.train_step()
    shared = problem.num_tasks * sum(parameter.numel() for parameter in tasks.shared)
    # In float64; those of validation by the shared parameters alone; of a head, only the gradient of its own task.
    assert tasks.megabytes == 8 * (2 * shared + sum(parameter.numel() for parameter in tasks.own)) / 2**20
    assert tasks.jacobian.num_bytes == passes.jacobian.num_bytes == 0


# ---- which passes ----------------------------------------------------------------------------------------------------


class Told(RowsInDouble):
    """Every task has rows of its own, which the batch names."""

    name = "told"

    def __init__(self, *, honest: bool = True, noisy: bool = False) -> None:
        super().__init__()
        self.honest, self.noisy = honest, noisy

    def model(self, seed: int) -> nn.Module:
        model = super().model(seed)
        assert isinstance(model, Network)
        if self.noisy:
            model.shared.register_forward_hook(lambda layer, inputs, output: nn.functional.dropout(output, 0.1))
        return model

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().losses(model, {name: batch[name] for name in ("x", "y")})
        return losses if "task" not in batch else losses * torch.eye(self.num_tasks)[int(batch["task"])]

    def task_rows(self, batch: Batch) -> Sequence[Batch]:
        part = {name: tensor if self.honest else tensor[:3] for name, tensor in batch.items()}
        return [{**part, "task": torch.tensor(task)} for task in range(self.num_tasks)]


@pytest.mark.parametrize(
    ("problem", "way"),
    [
        (Told, "own_rows"),
        (small_code, "row_blocks"),
        (lambda: Told(honest=False), "a_pass_each"),
        (lambda: Told(noisy=True), "a_pass_each"),
        (RowsInDouble, "a_pass_each"),
        (TinyInDouble, "a_pass_each"),
    ],
    ids=["rows", "groups of rows", "not their own", "dropout", "groups at one layer alone", "all rows of all tasks"],
)
def test_own_rows_are_used_where_they_give_the_same_losses(problem: Any, way: str) -> None:
    made = problem()
    spy = weighter(made)
    loop = stepped(made, spy)
    assert loop.stepper.task_gradients is not None
    assert loop.stepper.task_gradients.way == way
    loop.train_step()
    assert loop.stepper.extra == (0, made.num_tasks - 1 if way == "a_pass_each" else 0, 0)


def test_rows_that_a_later_batch_does_not_tell_apart() -> None:
    problem = Told()
    loop = stepped(problem, weighter(problem))
    problem.task_rows = lambda batch: None  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(RuntimeError, match="told: expected task_rows to give 3 parts of every batch, found none"):
        loop.train_step()


def test_the_look_leaves_no_trace() -> None:
    loops = [stepped(NoisyInDouble(kind="batch norm"), Spy(3, asks=Needs.NOTHING), steps=1) for _ in range(2)]
    kinds = [Needs.NOTHING, Needs.GRAMIAN]
    for loop, asks in zip(loops, kinds, strict=True):
        assert isinstance(loop.weighter, Spy)
        loop.weighter.asks = asks
    fresh = NoisyInDouble(kind="batch norm").model(0)
    for loop in loops:
        for name, value in fresh.state_dict().items():
            assert torch.equal(loop.model.state_dict()[name], value), name


# ---- which parameters ------------------------------------------------------------------------------------------------


def names(loop: Loop, chosen: Sequence[Tensor]) -> set[str]:
    wanted = {id(parameter) for parameter in chosen}
    return {name for name, parameter in loop.model.named_parameters() if id(parameter) in wanted}


def test_shared_is_what_every_task_reaches() -> None:
    problem = TinyInDouble()
    tasks = (loop := stepped(problem, weighter(problem))).stepper.task_gradients
    assert tasks is not None
    assert names(loop, tasks.shared) == {"shared.weight", "shared.bias"}
    assert len(tasks.own) == 6


def test_what_nobody_reaches_yet_is_shared() -> None:
    """As the first matrix of an adapter whose second one begins at 0."""

    class Begins(TinyInDouble):
        def model(self, seed: int) -> nn.Module:
            model = super().model(seed)
            assert isinstance(model, Network)
            for head in model.heads.values():
                nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            return model

    problem = Begins()
    tasks = (loop := stepped(problem, weighter(problem))).stepper.task_gradients
    assert tasks is not None
    assert names(loop, tasks.shared) == {"shared.weight", "shared.bias"}


def test_a_problem_may_name_them() -> None:
    class Names(TinyInDouble):
        def shared_parameters(self, model: nn.Module) -> Sequence[Tensor]:
            assert isinstance(model, Network)
            return [model.shared.weight]

    problem = Names()
    tasks = (loop := stepped(problem, weighter(problem))).stepper.task_gradients
    assert tasks is not None
    assert names(loop, tasks.shared) == {"shared.weight"}
    assert "shared.bias" in names(loop, tasks.own)


def test_named_parameters_that_are_frozen() -> None:
    class Frozen(TinyInDouble):
        def shared_parameters(self, model: nn.Module) -> Sequence[Tensor]:
            assert isinstance(model, Network)
            return [model.shared.weight.requires_grad_(False)]

    with pytest.raises(ValueError, match="tiny: expected shared_parameters to hold some that are trained, found none"):
        stepped(Frozen(), weighter(Frozen()))


def test_db_mtl_trains_the_heads_by_the_log_losses() -> None:
    problem = TinyInDouble()
    loop = stepped(problem, DualBalancing(3))
    tasks = loop.stepper.task_gradients
    assert tasks is not None
    losses = graph(loop)
    expected = torch.autograd.grad((losses + 1e-8).log().sum(), tasks.own)
    loop.train_step()
    for parameter, gradient in zip(tasks.own, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "chosen", "expected"),
    [(Uneven, None, "all"), (SharedUneven, None, "shared"), (Uneven, "shared", "shared"), (SharedUneven, "all", "all")],
)
def test_a_suite_may_say_what_the_weights_act_on(kind: type[Uneven], chosen: str | None, expected: str) -> None:
    problem = TinyInDouble()
    loop = stepped(problem, weighter(problem, kind), acts_on=chosen)
    assert loop.stepper.task_gradients is not None
    assert loop.stepper.task_gradients.acts_on == expected


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "code_lm"])
def test_one_jacobian_in_the_dtype_of_the_parameters(name: str) -> None:
    problem = PROBLEMS[name]()
    loop = stepped(problem, weighter(problem))
    tasks = loop.stepper.task_gradients
    assert tasks is not None
    tasks.add(loop.stepper.data.train_batch(0), None, None, lambda batch: problem.losses(loop.model, batch))
    held = problem.num_tasks * sum(parameter.numel() for parameter in tasks.shared)
    held += sum(parameter.numel() for parameter in tasks.own)
    # In float64; of a head, only the gradient of its own task.
    tasks.apply(torch.ones(problem.num_tasks), torch.ones(problem.num_tasks))
    assert tasks.megabytes == 8 * held / 2**20
    assert tasks.jacobian.num_bytes == 0


def test_what_belongs_to_a_task_is_trained_alike_where_a_method_learns_from_the_other_split() -> None:
    inner, other = create("db_mtl", 2), create("db_mtl", 2, losses_from="validation")
    now = Observation(losses=[2.0, 4.0], gramian=[[1.0, 0.0], [0.0, 1.0]])
    assert other.acts_on == "shared"
    torch.testing.assert_close(other.own_weights(now), inner.own_weights(now))
