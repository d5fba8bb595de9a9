"""The contract of a loss-weighting method.

Weights are data. At every training step a method answers with one vector: the coefficients w with which the raw task
losses are summed before the backward pass, ``total = (w * losses).sum()``, so that ``w_i = dTotal / dL_i`` exactly. A
method sees detached numbers, returns detached numbers and never touches the autograd graph. It can therefore be replayed
from a log, saved half-way, evaluated for many replicas at once and used in anybody's training loop::

    weighter = weighting.create("dwa", num_tasks=3, window=100)
    weighter.start(Observation(losses=first_losses))
    for batch in batches:
        losses = task_losses(model, batch)                          # (3,), with graph
        now = Observation(losses=losses.detach())
        (weighter.weights(now) * losses).sum().backward()
        optimizer.step(); optimizer.zero_grad()
        weighter.update(now)

Shapes: every tensor is ``(*batch_shape, K)``. The last dimension holds the K tasks; leading dimensions are independent
replicas of the method.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

Field = Literal["losses", "val_losses", "val_losses_before", "losses_after", "grad_norms", "gramian"]

Feedback = Literal["training", "validation"]

_OBSERVED = ("losses", "val_losses", "val_losses_before", "losses_after", "grad_norms", "gramian")


class Needs(Flag):
    """What a method reads besides the losses of the step. Whoever trains computes only what is asked for."""

    NOTHING = 0
    VAL_LOSSES = auto()
    """Losses of one validation mini-batch under the model after the step."""
    LOSSES_AFTER_STEP = auto()
    """Losses of the same training batch under the model after the step."""
    GRAD_NORMS = auto()
    """Norms of the unweighted task gradients at the shared layer."""
    GRAMIAN = auto()
    """Inner products of the unweighted task gradients."""
    VAL_LOSSES_BEFORE_STEP = auto()
    """Losses of the validation mini-batch of this step under the model before the step."""


@dataclass(frozen=True)
class Observation:
    """What a method may see at one step. Every field but the asked-for ones is None.

    losses             ``(*batch_shape, K)`` raw training losses of this step's batch, before the step
    val_losses         ``(*batch_shape, K)`` one validation mini-batch after the step; at ``start``, the initial
                       validation losses
    val_losses_before  ``(*batch_shape, K)`` the same validation mini-batch before the step
    losses_after       ``(*batch_shape, K)`` the same training batch after the step
    grad_norms         ``(*batch_shape, K)`` norm of each UNWEIGHTED task gradient at the shared layer
    gramian            ``(*batch_shape, K, K)`` inner products of the unweighted task gradients
    present            ``(*batch_shape, K)`` bool, which tasks the training batch contains; None: all
    val_present        ``(*batch_shape, K)`` bool, the same for the validation batch
    """

    losses: Tensor | None = None
    val_losses: Tensor | None = None
    val_losses_before: Tensor | None = None
    losses_after: Tensor | None = None
    grad_norms: Tensor | None = None
    gramian: Tensor | None = None
    present: Tensor | None = None
    val_present: Tensor | None = None

    def __post_init__(self) -> None:
        for name in _OBSERVED:
            value = getattr(self, name)
            if value is not None and value.requires_grad:
                object.__setattr__(self, name, value.detach())

    def with_(self, **changes: Tensor | None) -> Observation:
        """The same observation with further fields filled in."""
        return replace(self, **changes)


@dataclass(frozen=True)
class RunFacts:
    """What a method's defaults may depend on: facts of the run, known before the first step."""

    steps: int
    """Training steps of the run."""
    steps_per_epoch: int
    """Steps in which the training set is seen once."""
    val_batches: int
    """Validation mini-batches in the validation set."""
    seed: int
    """A seed for methods that draw random numbers."""


class Weighter(nn.Module, ABC):
    """Base class of all methods: K raw losses in, K coefficients out.

    A method must give ``name`` and ``weights``. It may give ``start``, ``update`` and ``wants`` and set the class
    attributes below. State lives in registered buffers and is float64 unless moved, so that ``.to()``, ``state_dict()``
    and ``load_state_dict()`` work as for any module; weights are returned in the dtype and on the device of the losses.

    Absent tasks (``Observation.present``) get weight zero and leave no trace in the state.

    num_tasks    K >= 1
    batch_shape  shape of the independent replicas, () for one

    Raises ValueError on hyperparameters outside their range, when the method is created.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs.NOTHING
    feedback: ClassVar[Feedback] = "training"
    """Whose losses the method learns from; ``create(..., feedback=...)`` feeds it the other split's."""
    claims: ClassVar[frozenset[str]] = frozenset()
    """Properties that tests check, by the names of the checkers in ``tests/claims.py``."""
    adaptive: ClassVar[bool] = True
    """Whether the weights are meant to move during training."""
    guards: ClassVar[Mapping[str, str]] = {}
    """Name -> meaning of each special case in which the method has to leave its rule, e.g. 0 / 0."""
    search: ClassVar[Mapping[str, Sequence[object]]] = {}
    """The search space of the hyperparameters: the published one, where there is one."""

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = ()) -> None:
        super().__init__()
        check(self.name, "num_tasks", num_tasks, integer=True, least=1)
        self.num_tasks = num_tasks
        self.batch_shape = tuple(batch_shape)
        if self.guards:
            self.register_buffer("guard_counts", torch.zeros(*self.batch_shape, len(self.guards), dtype=torch.int64))
            self.guard_counts: Tensor

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """Defaults that depend on the run, e.g. a window of one epoch. Explicit hyperparameters win over them."""
        return {}

    def start(self, first: Observation) -> None:
        """Look at the initial losses (and validation losses, if needed) before training."""

    @abstractmethod
    def weights(self, now: Observation) -> Tensor:
        """This step's coefficients of the raw losses: ``(*batch_shape, K)``, no gradient. Changes no state."""

    def wants(self) -> Needs:
        """Which of its needs the coming step will read; never more than ``needs``."""
        return self.needs

    def update(self, after: Observation) -> None:
        """Learn from the step that was just made."""

    def claimed(self) -> frozenset[str]:
        """What this instance claims: ``claims``, unless its variant has other properties."""
        return self.claims

    def guards_taken(self) -> dict[str, int]:
        """How often each guard was taken since the start, over all replicas; those never taken are left out."""
        if not self.guards:
            return {}
        counts = self.guard_counts.reshape(-1, len(self.guards)).sum(0).tolist()
        return {name: count for name, count in zip(self.guards, counts, strict=True) if count}

    # ---- help for subclasses -------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*batch_shape, K)``."""
        return (*self.batch_shape, self.num_tasks)

    def add_state(self, name: str, value: Tensor | float) -> None:
        """Register state that is saved and moved with the method; a number fills ``(*batch_shape, K)``."""
        tensor = value if isinstance(value, Tensor) else torch.full(self.shape, float(value), dtype=torch.float64)
        self.register_buffer(name, tensor)

    def read(self, seen: Observation, field: Field) -> Tensor:
        """The observed field in the dtype and on the device of the state. Raises ValueError if missing or misshapen."""
        value: Tensor | None = getattr(seen, field)
        if value is None:
            raise ValueError(f"{self.name}: expected an observation with {field!r}, found none")
        shape = (*self.shape, self.num_tasks) if field == "gramian" else self.shape
        if value.shape != shape:
            raise ValueError(f"{self.name}: expected {field} of shape {shape}, found {tuple(value.shape)}")
        return value.to(self._state_like())

    def read_nonnegative(self, seen: Observation) -> tuple[Tensor, Tensor]:
        """The losses, with 1 for absent tasks, and which tasks are present: both ``(*batch_shape, K)``.

        Raises ValueError if a present task's loss is negative.
        """
        present = self.present(seen)
        losses = self.read(seen, "losses")
        losses = torch.where(present, losses, torch.ones_like(losses))
        if bool((losses < 0).any()):
            raise ValueError(f"{self.name}: expected losses of at least 0, found {float(losses.min()):g}")
        return losses, present

    def took(self, guard: str, where: Tensor) -> None:
        """Count a guard for the replicas in which it was taken: bool ``(*batch_shape)``."""
        self.guard_counts[..., list(self.guards).index(guard)].add_(where)

    def present(self, seen: Observation, field: Literal["present", "val_present"] = "present") -> Tensor:
        """Which tasks are there: bool ``(*batch_shape, K)``, on the device of the state."""
        value: Tensor | None = getattr(seen, field)
        device = self._state_like().device
        if value is None:
            return torch.ones(self.shape, dtype=torch.bool, device=device)
        if value.shape != self.shape:
            raise ValueError(f"{self.name}: expected {field} of shape {self.shape}, found {tuple(value.shape)}")
        return value.to(device=device, dtype=torch.bool)

    def reply(self, weights: Tensor, now: Observation) -> Tensor:
        """The weights as a method returns them: a copy, absent tasks at zero, dtype and device of the losses."""
        if now.losses is None:
            raise ValueError(f"{self.name}: expected an observation with 'losses', found none")
        if now.losses.shape != self.shape:
            raise ValueError(f"{self.name}: expected losses of shape {self.shape}, found {tuple(now.losses.shape)}")
        weights = weights.expand(self.shape).to(now.losses, copy=True)
        if now.present is None:
            return weights
        return weights.masked_fill_(~self.present(now).to(weights.device), 0.0)

    def _state_like(self) -> Tensor:
        for buffer in self._buffers.values():
            if buffer is not None and buffer.is_floating_point():
                return buffer
        return torch.empty(0, dtype=torch.float64)


def check(
    owner: str,
    name: str,
    value: object,
    *,
    integer: bool = False,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raise a ValueError of one line unless ``value`` is a finite number (or an integer) within its bounds."""
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("at least", least), ("above", above), ("below", below))
        if bound is not None
    ]
    expected = " ".join(["an integer" if integer else "a finite number", " and ".join(bounds)]).strip()
    number = isinstance(value, int) if integer else isinstance(value, int | float)
    if (
        not number
        or isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        raise ValueError(f"{owner}: expected {name} to be {expected}, found {value!r}")


def check_choice(owner: str, name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ValueError of one line unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{owner}: expected {name} to be one of {', '.join(choices)}, found {value!r}")


def task_vector(owner: str, name: str, value: float | Sequence[float], num_tasks: int) -> Tensor:
    """A float64 vector with one number per task, from one number for all or K numbers. Raises ValueError of one line."""
    numbers = list(value) if isinstance(value, Iterable) else [value] * num_tasks
    if len(numbers) != num_tasks:
        raise ValueError(f"{owner}: expected {name} with {num_tasks} numbers, one per task, found {len(numbers)}: {value!r}")
    for number in numbers:
        check(owner, f"every number of {name}", number)
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
