"""Made-up training runs to show to a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from weighting import Observation, Weighter, replay
from weighting.observation import dimensions_of


@dataclass(frozen=True)
class Script:
    """What a training run would show: at the start, and at every step."""

    first: Observation
    steps: list[Observation]

    def changed(self, change: Callable[[str, Tensor], Tensor]) -> Script:
        """The same run with every tensor ``change(field, tensor)``."""
        return Script(changed(self.first, change), [changed(step, change) for step in self.steps])


def changed(seen: Observation, change: Callable[[str, Tensor], Tensor]) -> Observation:
    """The observation with every tensor that is there ``change(field, tensor)``."""
    there = {field.name: getattr(seen, field.name) for field in fields(seen)}
    return Observation(**{name: change(name, value) for name, value in there.items() if value is not None})


def in_order(field: str, value: Tensor, order: Tensor) -> Tensor:
    """A field with the tasks that ``order`` says, ``(n,)``, in every dimension of tasks."""
    for dimension in dimensions_of(field):
        value = value.index_select(dimension, order)
    return value


def times_factors(field: str, value: Tensor, factors: Tensor) -> Tensor:
    """A field times the factor of each task, ``(K,)``, in every dimension of tasks."""
    for dimension in dimensions_of(field):
        value = value * factors.reshape(-1, *([1] * (-dimension - 1)))
    return value


def script(
    num_tasks: int = 3,
    steps: int = 30,
    *,
    seed: int = 0,
    batch_shape: Sequence[int] = (),
    magnitude: float = 1.0,
    roughness: float = 0.1,
    absent: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Script:
    """Positive losses that walk at random, in scales of their own.

    magnitude   of all losses
    roughness   standard deviation of the logarithm's steps
    absent      tasks are missing now and then, from the first observation on, sometimes all of them
    """
    shape = (*batch_shape, num_tasks)
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    level = magnitude * torch.exp(normal(*shape))

    def walk(speed: float) -> Tensor:
        return level * torch.exp(
            (roughness * normal(steps + 1, *shape) - speed * torch.rand(shape, generator=draw)).cumsum(0)
        )

    losses, val_losses = walk(0.03), walk(0.01)
    gradients = level.sqrt().unsqueeze(-1) * normal(steps + 1, *shape, 2 * num_tasks + 1)
    gramian = gradients @ gradients.mT
    values = {
        "losses": losses,
        "val_losses": val_losses,
        "losses_after": losses * torch.exp(roughness * normal(steps + 1, *shape) - 0.03),
        "grad_norms": gramian.diagonal(dim1=-2, dim2=-1).sqrt(),
        "gramian": gramian,
    }
    values = {name: value.to(dtype) for name, value in values.items()}
    if absent:
        for name in ("counts", "val_counts"):
            values[name] = torch.rand((steps + 1, *shape), generator=draw) < 0.7
    values["val_losses_before"] = values["val_losses"] * torch.exp(roughness * normal(steps + 1, *shape) + 0.01).to(dtype)
    of_validation = gradients + level.sqrt().unsqueeze(-1) * normal(*gradients.shape)
    values["cross_gramian"] = (of_validation @ gradients.mT).to(dtype)
    rows = [Observation(**{name: value[t] for name, value in values.items()}) for t in range(steps + 1)]
    return Script(rows[0], rows[1:])


def run(weighter: Weighter, shown: Script) -> Tensor:
    """Show a whole run. Returns the weights of each step, ``(T, *batch_shape, K)``."""
    return replay(weighter, [shown.first, *shown.steps])


def half_way(make: Callable[[], Weighter], shown: Script) -> tuple[Weighter, Weighter, Script]:
    """A method after the first half of a run, its twin, and the steps to come."""
    weighter, twin = make(), make()
    half = len(shown.steps) // 2
    for each in (weighter, twin):
        run(each, Script(shown.first, shown.steps[:half]))
    return weighter, twin, Script(shown.first, shown.steps[half:])
