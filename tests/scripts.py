"""Made-up training runs to show to a method, and the loop that shows them as a trainer would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import subjects
import torch
from subjects import KINDS, is_listed, short
from torch import Tensor

from weighting import Needs, Observation, Weighter

VALIDATION: dict[str, Any] = {"feedback": "validation"}

FURTHER: dict[str, list[dict[str, Any]]] = {
    "static": [{"weights": [0.5, 0.0, 2.5]}],
    "random": [{"seed": 7}],
    "gradnorm": [
        {"optimizer": "sgd", "lr": 0.003, "alpha": 0.5},
        {"initial_steps": 4},
        {"variant": "libmtl", "initial_steps": 5, "weight_decay": 0.01},
        VALIDATION,
    ],
    "dwa": [{"temperature": 0.5, "window": 1}, {"variant": "nash_mtl"}, VALIDATION],
    "uncertainty": [
        {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, "initial_log_variance": -0.5},
        VALIDATION,
    ],
    "gls": [VALIDATION],
    "scale_invariant": [VALIDATION],
    "imtl_l": [{"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, "initial_log_scale": -0.5}],
    "lbtw": [{"alpha": 1.0, "restart_every": 4}, {"variant": "official", "restart_every": 4}, VALIDATION],
    "famo": [{"lookahead": "next_batch"}, {"gamma": 0.01}, VALIDATION, {"lookahead": "next_batch", **VALIDATION}],
    "coba": [
        {"warmup": 0, "tau": 0.5},
        {"update_every": 3, "window": 9},
        {"history": "from_start"},
        {"components": "relative"},
        {"components": "absolute", "update_every": 2},
        {"components": "fixed_mix", "mix": 0.3},
        {"variant": "mftcoder"},
        {"variant": "mftcoder", "update_every": 2, "warmup": 6},
        {"variant": "mftcoder", "components": "fixed_mix"},
        {"feedback": "training"},
    ],
}
"""Settings of a listed method, besides the default ones, that take another path through its code. Three tasks."""


def further(name: str) -> list[dict[str, Any]]:
    """The settings of a method under test besides the default ones; of an own class, every value it wants searched."""
    if is_listed(KINDS[name]):
        return FURTHER.get(name, [])
    return [{key: value} for key, values in KINDS[name].search.items() for value in values]


def label(name: str, more: dict[str, Any]) -> str:
    """A setting as tests show it."""
    return f"{name}({', '.join(f'{key}={value}' for key, value in more.items())})"


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in KINDS),
    *((name, more) for name in KINDS for more in further(name)),
]
SETTING_IDS = [label(name, more) for name, more in SETTINGS]


def make(name: str, num_tasks: int = 3, *, batch_shape: Sequence[int] = (), **more: Any) -> Weighter:
    """A method under test that shows all it can in a short run."""
    return subjects.create(name, num_tasks, batch_shape=batch_shape, **short(KINDS[name], **more))


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
    rows = [Observation(**{name: value[t] for name, value in values.items()}) for t in range(steps + 1)]
    return Script(rows[0], rows[1:])


def at_start(weighter: Weighter, first: Observation) -> Observation:
    """What of the first observation the method is shown: losses, and validation losses if it needs them."""
    if Needs.VAL_LOSSES in weighter.needs:
        return Observation(
            losses=first.losses, val_losses=first.val_losses, counts=first.counts, val_counts=first.val_counts
        )
    return Observation(losses=first.losses, counts=first.counts)


def before_step(weighter: Weighter, step: Observation) -> Observation:
    """What of a step the method is shown when it answers with weights."""
    gramian = step.gramian if Needs.GRAMIAN in weighter.wants() else None
    return Observation(losses=step.losses, counts=step.counts, gramian=gramian)


def after_step(weighter: Weighter, step: Observation) -> Observation:
    """What of a step the method is shown when it learns: what it wants and no more."""
    wanted = weighter.wants()
    seen = before_step(weighter, step)
    if Needs.VAL_LOSSES in wanted:
        seen = seen.with_(val_losses=step.val_losses, val_counts=step.val_counts)
    if Needs.VAL_LOSSES_BEFORE_STEP in wanted:
        seen = seen.with_(val_losses_before=step.val_losses_before, val_counts=step.val_counts)
    if Needs.LOSSES_AFTER_STEP in wanted:
        seen = seen.with_(losses_after=step.losses_after)
    if Needs.GRAD_NORMS in wanted:
        seen = seen.with_(grad_norms=step.grad_norms)
    return seen


def go_on(weighter: Weighter, steps: Sequence[Observation]) -> Tensor:
    """Show further steps. Returns the weights of each, ``(T, *batch_shape, K)``."""
    weights = []
    for step in steps:
        weights.append(weighter.weights(before_step(weighter, step)))
        weighter.update(after_step(weighter, step))
    return torch.stack(weights)


def run(weighter: Weighter, shown: Script) -> Tensor:
    """Show a whole run. Returns the weights of each step, ``(T, *batch_shape, K)``."""
    weighter.start(at_start(weighter, shown.first))
    return go_on(weighter, shown.steps)
