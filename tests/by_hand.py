"""A small problem with tasks per row, and its training written by hand on whole batches: what every adapter must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import weighting
from weighting import Needs, Observation, Weighter

TASKS = ("code", "text", "speech")
K, WIDTH, LENGTH, STEPS, LR = len(TASKS), 4, 3, 7, 0.1

METHODS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "coba": {"warmup": 1, "window": 4},
    "famo": {"lr": 0.2},
    "gradnorm": {"lr": 0.1},
    "uncertainty": {"lr": 0.1},
    "dwa": {"window": 2},
    "gls": {},
    "db_mtl": {},
}
"""Every method by name, with settings under which its weights move within a few steps."""


@dataclass
class Batch:
    """Rows of one task each, with as many units as the mask says."""

    inputs: Tensor
    """``(rows, LENGTH, WIDTH)``"""
    targets: Tensor
    """``(rows, LENGTH)``"""
    mask: Tensor
    """``(rows, LENGTH)`` bool"""
    task: Tensor
    """``(rows,)``"""

    def __getitem__(self, rows: Any) -> Batch:
        return Batch(self.inputs[rows], self.targets[rows], self.mask[rows], self.task[rows])


def batch(seed: int, rows: int, tasks: int = K) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, LENGTH, WIDTH, generator=draw, dtype=torch.float64)
    task = torch.randint(tasks, (rows,), generator=draw)
    mask = torch.rand(rows, LENGTH, generator=draw) < 0.7
    return Batch(inputs, inputs.sum(-1) * (1.0 + task[:, None]), mask, task)


def training_batches() -> list[Batch]:
    """Some steps lack the last task, and the last batch is smaller than the others."""
    return [batch(step, 5 if step == STEPS - 1 else 8, tasks=K - 1 if step % 3 == 1 else K) for step in range(STEPS)]


def validation_rows() -> Batch:
    return batch(1000, 13)


def last_weight(model: nn.Sequential) -> Tensor:
    """What GradNorm compares gradients at."""
    return next(model[2].parameters())


def model() -> nn.Sequential:
    torch.manual_seed(3)
    made = nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    made[1].register_forward_hook(by_mode)
    return made


def by_mode(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    """A layer that is not the same in training and in evaluation, without anything drawn."""
    return output * 1.25 if layer.training else output


def sums_of(model: nn.Module, part: Batch) -> Tensor:
    """``(K,)`` squared errors, summed over the units of each task, with graph."""
    each = (model(part.inputs).squeeze(-1) - part.targets).square() * part.mask
    return torch.zeros(K, dtype=each.dtype).index_add(0, part.task, each.sum(1))


def counts_of(part: Batch) -> Tensor:
    return torch.zeros(K, dtype=torch.int64).index_add(0, part.task, part.mask.sum(1))


def counts_of_parts(parts: Sequence[Batch]) -> Tensor:
    return torch.stack([counts_of(part) for part in parts]).sum(0)


def overflow(parameter: Any, now: Callable[[], bool]) -> torch.amp.GradScaler:
    """A gradient scaler that skips the steps in which ``now()``, as the gradient of a parameter is then infinite."""

    def infinite(gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, torch.inf) if now() else gradient

    parameter.register_hook(infinite)
    return torch.amp.GradScaler("cpu", init_scale=2.0)


def measure(model: nn.Module) -> Any:
    return lambda part: (sums_of(model, part), counts_of(part))


def method(name: str) -> Weighter:
    return weighting.create(name, K, **METHODS[name])


@dataclass
class Result:
    """What a run leaves: losses and weights ``(STEPS, K)``, and the parameters at its end."""

    losses: Tensor
    weights: Tensor
    parameters: Tensor


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def means(model: nn.Module, part: Batch) -> Tensor:
    return sums_of(model, part) / counts_of(part).clamp(min=1)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """For validation losses."""
    model.eval()
    with torch.no_grad():
        yield
    model.train()


def gramian_of(losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    found = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    rows = torch.stack([torch.cat([part.flatten() for part in each]) for each in found])
    return rows @ rows.T


@cache
def by_hand(name: str, skipped: int | None = None) -> Result:
    """Plain PyTorch on whole batches: no step object, no micro-batches, no ranks. Trained once for all that ask.

    skipped: the step that is not made, as under a gradient scaler, and of which nothing is learned
    """
    trained, weighter, validation = model(), method(name), validation_rows()
    optimizer = torch.optim.SGD(trained.parameters(), lr=LR)
    losses_of, weights_of = [], []
    shown_batches = 0
    for step, part in enumerate(training_batches()):
        losses, counts = means(trained, part), counts_of(part)
        now = Observation(losses=losses, counts=counts)
        if step == 0:
            with evaluation(trained):
                first = Observation(losses=means(trained, validation), counts=counts_of(validation))
            weighter.start(now.replace(val_losses=first.losses, val_counts=first.counts))
        wanted = weighter.wants()
        if Needs.GRAMIAN in wanted:
            now = now.replace(gramian=gramian_of(losses, [last_weight(trained)]))
        weights = weighter.weights(now)
        if Needs.GRAD_NORMS in wanted:
            rows = [torch.autograd.grad(loss, last_weight(trained), retain_graph=True)[0] for loss in losses]
            now = now.replace(grad_norms=torch.stack([row.norm() for row in rows]))
        if step == skipped:
            continue
        losses_of.append(torch.where(counts > 0, losses.detach(), torch.nan))
        weights_of.append(weights)
        optimizer.zero_grad()
        (weights * losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if Needs.LOSSES_AFTER_STEP in wanted:
            now = now.replace(losses_after=means(trained, part))
        if Needs.VAL_LOSSES in wanted:
            shown = validation[[(shown_batches * 6 + place) % 13 for place in range(6)]]
            shown_batches += 1
            with evaluation(trained):
                now = now.replace(val_losses=means(trained, shown), val_counts=counts_of(shown))
        weighter.update(now)
    return Result(torch.stack(losses_of), torch.stack(weights_of), flat(trained))


def assert_equal(found: Result, expected: Result, *, of: str = "") -> None:
    """To 1e-10. of: whose result it is, for the message."""
    for field in ("losses", "weights", "parameters"):
        one, other = getattr(found, field), getattr(expected, field)
        try:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, equal_nan=True)
        except AssertionError as error:
            raise AssertionError(f"{of} {field}: {error}") from error
