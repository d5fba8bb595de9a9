"""What a method may see of a step: losses, counts and what else it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Field = Literal["losses", "val_losses", "val_losses_before", "losses_after", "grad_norms", "gramian", "cross_gramian"]
Counts = Literal["counts", "val_counts"]
COUNTS: tuple[Counts, ...] = ("counts", "val_counts")
COUNTS_OF: Mapping[Field, tuple[Counts, ...]] = {
    "losses": ("counts",),
    "val_losses": ("val_counts",),
    "val_losses_before": ("val_counts",),
    "losses_after": ("counts",),
    "grad_norms": ("counts",),
    "gramian": ("counts", "counts"),
    "cross_gramian": ("val_counts", "counts"),
}
"""Field -> for each of its dimensions of tasks, the counts of the batch that they belong to."""


def dimensions_of(field: str, counts: Sequence[Counts] = COUNTS) -> list[int]:
    """The dimensions of a field, or of counts, that are tasks of a batch with any of these counts: -1, or -2 and -1."""
    own: tuple[str, ...] = COUNTS_OF.get(field, (field,))  # type: ignore[call-overload]
    return [place - len(own) for place, name in enumerate(own) if name in counts]


TRAINING_FIELDS: tuple[Field, ...] = tuple(field for field, counts in COUNTS_OF.items() if "counts" in counts)
VALIDATION_FIELDS: tuple[Field, ...] = tuple(field for field, counts in COUNTS_OF.items() if "val_counts" in counts)
"""Those with a dimension of the tasks of the training batch, and of the validation batch."""


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
    CROSS_GRAMIAN = auto()
    """Inner products of the unweighted gradients of validation after the step with those of training before it."""


FIELD_OF: Mapping[Needs, Field] = {
    Needs.VAL_LOSSES: "val_losses",
    Needs.VAL_LOSSES_BEFORE_STEP: "val_losses_before",
    Needs.LOSSES_AFTER_STEP: "losses_after",
    Needs.GRAD_NORMS: "grad_norms",
    Needs.GRAMIAN: "gramian",
    Needs.CROSS_GRAMIAN: "cross_gramian",
}
"""Where an observation holds what is asked for."""


class Array(Protocol):
    """An array of NumPy or of whoever else speaks its protocol."""

    def __array__(self) -> Any:
        """As a NumPy array."""


Numbers = Tensor | Array | Sequence[Any] | float
"""What is taken for numbers: a tensor, an array, a (nested) sequence of numbers or of tensors, one number."""


@dataclass(frozen=True, init=False)
class Observation:
    """What a method may see at one step. Every field but the asked-for ones is None.

    losses             ``(*batch_shape, K)`` raw training losses of this step's batch, before the step: means over units
    counts             ``(*batch_shape, K)`` over how many units (tokens, pixels, examples) each mean was taken; 0: the task
                       is absent, and its loss means nothing; a bool mask will do; None: all are present
    val_losses         ``(*batch_shape, K)`` one validation mini-batch after the step; at ``start``, the initial
                       validation losses
    val_counts         ``(*batch_shape, K)`` the same as ``counts`` for the validation batch
    val_losses_before  ``(*batch_shape, K)`` the same validation mini-batch before the step
    losses_after       ``(*batch_shape, K)`` the same training batch after the step
    grad_norms         ``(*batch_shape, K)`` norm of each UNWEIGHTED task gradient at the shared layer
    gramian            ``(*batch_shape, K, K)`` inner products of the unweighted task gradients
    cross_gramian      ``(*batch_shape, K, K)`` in row j, column i the inner product of the gradient of task j's validation
                       loss after the step with that of task i's training loss before the step, both unweighted: rows
                       belong to ``val_counts``, columns to ``counts``

    Tensors are detached; arrays, sequences and numbers become tensors. Raises TypeError where a field holds no numbers.
    """

    losses: Tensor | None
    counts: Tensor | None
    val_losses: Tensor | None
    val_counts: Tensor | None
    val_losses_before: Tensor | None
    losses_after: Tensor | None
    grad_norms: Tensor | None
    gramian: Tensor | None
    cross_gramian: Tensor | None

    def __init__(
        self,
        losses: Numbers | None = None,
        counts: Numbers | None = None,
        val_losses: Numbers | None = None,
        val_counts: Numbers | None = None,
        val_losses_before: Numbers | None = None,
        losses_after: Numbers | None = None,
        grad_norms: Numbers | None = None,
        gramian: Numbers | None = None,
        cross_gramian: Numbers | None = None,
    ) -> None:
        of_losses = (losses, counts, val_losses, val_counts, val_losses_before, losses_after)
        of_gradients = (grad_norms, gramian, cross_gramian)
        for name, value in zip(self.__dataclass_fields__, (*of_losses, *of_gradients), strict=True):
            object.__setattr__(self, name, None if value is None else as_tensor(name, value).detach())

    @property
    def present(self) -> Tensor | None:
        """Which tasks the training batch contains, bool as ``counts``; None: all."""
        return None if self.counts is None else self.counts > 0

    @property
    def val_present(self) -> Tensor | None:
        """The same for the validation batch."""
        return None if self.val_counts is None else self.val_counts > 0

    def replace(self, **changes: Any) -> Observation:
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
    """Steps in which the validation set is seen once, by a method that reads one validation batch a step."""
    seed: int
    """A seed for methods that draw random numbers."""


def as_tensor(name: str, value: Numbers) -> Tensor:
    """The numbers as a tensor; those of Python as float64. Raises TypeError of one line."""
    try:
        if not isinstance(value, Tensor):
            value = _from_python(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"expected {name} as a tensor, an array or a sequence of numbers, found {value!r}") from error
    if value.is_complex():
        raise TypeError(f"expected {name} as real numbers, found {value.dtype}")
    return value


def _from_python(value: Any) -> Tensor:
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return torch.stack([item if isinstance(item, Tensor) else torch.tensor(item) for item in value])
    if isinstance(value, list | tuple):
        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, bool | int | float):
        return torch.tensor(value, dtype=torch.float64)
    if hasattr(value, "__array__"):
        return torch.as_tensor(value)
    raise TypeError


def wide(values: Tensor, device: torch.device | None = None) -> Tensor:
    """In float64, or in float32 on devices without it. device: to move to; None: where they are."""
    device = device or values.device
    # In one go: float64 cannot even be moved to such a device.
    return values.to(device, torch.float32 if device.type == "mps" else torch.float64)


def visible(values: Tensor) -> list[Any] | None:
    """The numbers, flat, where looking at them waits for no device and breaks no trace; else None."""
    if torch.compiler.is_compiling() or type(values) is not Tensor or values.device.type != "cpu":
        return None
    try:
        return list(values.flatten().tolist())
    except RuntimeError:
        # Batched by vmap: there is no one number to look at.
        return None
