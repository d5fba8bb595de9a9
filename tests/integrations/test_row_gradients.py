"""Where each row's task is told, the step's own backward pass gives the norms that passes per task give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import LR, STEPS, Batch, K, by_hand, counts_of_parts, flat, model, sums_of, training_batches
from by_step import local_means, parts_of, stepped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from weighting.gradients import task_gradients
from weighting.row_gradients import RowGradients, alone
from weighting.shared_gradients import SharedGradients

Forward = Callable[[Any], Any]


def told(part: Batch) -> Tensor:
    return part.task


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every micro-batch whose gradients are taken by passes per task."""
    made: list[int] = []
    add = SharedGradients.add

    def counted(self: SharedGradients, losses: Tensor) -> Tensor:
        made.append(len(made))
        return add(self, losses)

    monkeypatch.setattr(SharedGradients, "add", counted)
    return made


def train(
    pieces: int,
    forward: Forward = lambda trained: trained,
    rows: Callable[[Batch], Tensor] = told,
    scale: Callable[[int], float] = lambda step: 1.0,
) -> nn.Sequential:
    """GradNorm over accumulation; forward: what is put around the model; scale: a factor before the backward pass."""
    trained = model()
    step, optimizer = stepped(trained, "gradnorm"), torch.optim.SGD(trained.parameters(), lr=LR)
    passed = forward(trained)
    for number, whole in enumerate(training_batches()):
        parts = parts_of(whole, pieces)
        step.open(counts_of_parts(parts), local_means(trained, parts))
        optimizer.zero_grad()
        for part in parts:
            (step.total(sums_of(passed, part), rows(part)) * scale(number)).backward()  # type: ignore[no-untyped-call]
        for parameter in trained.parameters():
            parameter.grad = None if parameter.grad is None else parameter.grad / scale(number)
        optimizer.step()
        step.close()
    return trained


def is_right(trained: nn.Module) -> None:
    torch.testing.assert_close(flat(trained), by_hand("gradnorm").parameters, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_norms_are_those_of_passes_that_only_the_first_step_makes(pieces: int, passes: list[int]) -> None:
    is_right(train(pieces))
    assert len(passes) == pieces


def test_a_scale_that_changes_is_undone(passes: list[int]) -> None:
    is_right(train(2, scale=lambda step: 2.0 ** (3 * step)))
    assert len(passes) == 2


class Checkpointed(nn.Module):
    """Its layers are recomputed in the backward pass."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = checkpoint(self.inner, inputs, use_reentrant=False)
        return found


def test_passes_that_checkpointing_makes_again_are_not_followed(passes: list[int]) -> None:
    is_right(train(4, Checkpointed))
    assert len(passes) == 4


def test_rows_that_are_told_wrongly_are_noticed(passes: list[int]) -> None:
    is_right(train(2, rows=lambda part: (part.task + 1) % K))
    assert len(passes) == 2 * STEPS


class Twice(nn.Module):
    """Passes the model twice, and takes the mean."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = (self.inner(inputs) + self.inner(inputs)) / 2
        return found


def test_a_layer_that_is_passed_twice_is_not_followed(passes: list[int]) -> None:
    is_right(train(2, Twice))
    assert len(passes) == 2 * STEPS


def test_a_batch_whose_rows_are_not_told_takes_passes(passes: list[int]) -> None:
    is_right(train(2, rows=lambda part: part.task[:-1]))
    assert len(passes) == 2 * STEPS


def test_a_model_is_as_it_was_between_steps() -> None:
    trained = train(2)
    assert not any(module._forward_hooks for module in (trained[0], trained[2]))
    copy.deepcopy(trained)


def test_a_run_that_goes_on_does_not_compare_again(passes: list[int]) -> None:
    trained = model()
    step, later = stepped(trained, "gradnorm"), stepped(trained, "gradnorm")
    for number, each in enumerate((step, later)):
        (part,) = parts_of(training_batches()[number], 1)
        each.open(counts_of_parts([part]), local_means(trained, [part]))
        each.total(sums_of(trained, part), part.task).backward()  # type: ignore[no-untyped-call]
        each.close()
        later.load_state_dict(step.state_dict())
    assert len(passes) == 1


# ---- the gradients themselves ----------------------------------------------------------------------------------------


def conv(given: int, made: int) -> Any:
    """GPT-2's linear layer, whose weight lies the other way round."""
    return Conv1D(made, given)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [nn.Linear, conv])
def test_gradients_are_those_of_autograd(kind: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    trained = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), kind(5, 3), nn.Tanh(), nn.Linear(3, 1)).to(dtype)
    layer = trained[2]
    parameters = list(layer.parameters())
    assert alone(parameters, trained) is layer
    inputs, tasks = torch.randn(6, 7, 4).to(dtype), torch.tensor([2, 0, 0, 2, 0, 2])
    factors = torch.tensor([0.5, 1.0, -3.0], dtype=torch.promote_types(dtype, torch.float32))
    rows = RowGradients(layer, parameters)
    rows.watch()
    losses = torch.zeros(3, dtype=dtype).index_add(0, tasks, trained(inputs).square().sum((1, 2)))
    expected = [torch.cat([part.flatten() for part in each]) for each in task_gradients(losses, parameters)]
    total = (factors * losses).sum()
    assert rows.follow(total, factors, tasks)
    (total * 16).backward()  # type: ignore[no-untyped-call]
    assert rows.rows is not None
    near = 1e-12 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(rows.rows, torch.stack(expected).to(rows.rows), rtol=near, atol=near)


@pytest.mark.parametrize(
    ("tasks", "factors"),
    [
        ([0, 1, 1], [1.0, 0.0]),  # a task that is there has the factor 0
        ([[0], [1], [1]], [1.0, 1.0]),  # not one number per row
        ([0, 1], [1.0, 1.0]),  # other rows
    ],
)
def test_what_cannot_be_followed_is_said(tasks: list[Any], factors: list[float]) -> None:
    trained = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    rows = RowGradients(trained[0], list(trained[0].parameters()))
    rows.watch()
    assert not rows.follow(trained(torch.ones(3, 2)).sum(), torch.tensor(factors), torch.tensor(tasks))


def test_a_layer_is_followed_only_where_it_is_alone() -> None:
    first, second, norm = nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2)
    whole = nn.Sequential(first, second, norm)
    assert alone(first.parameters(), whole) is first
    assert alone([*first.parameters(), *second.parameters()], whole) is None
    assert alone(norm.parameters(), whole) is None
    first.bias.requires_grad_(False)
    assert alone([first.weight], whole) is None
    first.bias.requires_grad_(True)
    second.weight = first.weight
    assert alone([first.weight], whole) is None
