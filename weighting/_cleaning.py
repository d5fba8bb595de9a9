"""From what a user passes to what a method is shown: no number that is not finite, no task that is not there.

A number whose square is beyond the range of the answer counts as not finite, and one whose inverse squared is, as 0: no
product or ratio of two numbers overflows.

Absent tasks read as 1 wherever a number is asked for: it has a logarithm, a root and an inverse, so that no rule of a method
meets 0 / 0 there; what comes out for them is never used. In the Gramian they have no direction in common with any other,
and in the cross-Gramian no gradient: their row, or column, is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from weighting.observation import (
    COUNTS,
    COUNTS_OF,
    TRAINING_FIELDS,
    VALIDATION_FIELDS,
    Counts,
    Field,
    Observation,
    dimensions_of,
    visible,
)

FIELDS_OF: Mapping[Counts, tuple[Field, ...]] = {"counts": TRAINING_FIELDS, "val_counts": VALIDATION_FIELDS}
LARGEST_SINGLE, LARGEST_DOUBLE = (math.sqrt(torch.finfo(dtype).max) for dtype in (torch.float32, torch.float64))
"""The largest number whose square is in the range of the answer: float64 for losses in float64, else float32."""
FEW = 64
"""Numbers that Python has compared before torch has begun."""


class Clean(Observation):
    """An observation in the dtype and on the device of the state, finite throughout, with counts that are never None."""

    complete: bool
    """Whether it was seen, without waiting, that no task of the training batch is absent."""

    def __init__(self, *, complete: bool = False, **found: Tensor | None) -> None:
        # Every step makes two, of tensors that are detached already.
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, found.get(name))
        object.__setattr__(self, "complete", complete)


def answer_dtype(losses: Tensor) -> torch.dtype:
    """The precision of the weights for losses: theirs, float32 at least."""
    return torch.promote_types(losses.dtype, torch.float32)


def clean(
    owner: str, seen: Observation, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Clean, Tensor | None]:
    """The clean observation, and which tasks that should be there had a number that is not finite, or too large to square.

    owner  name of the method, for error messages
    shape  ``(*batch_shape, K)``, of the result too: bool; None: none had

    Raises ValueError on another shape.
    """
    found: dict[str, Tensor] = {}
    largest: dict[str, float] = {}
    for name in (*COUNTS_OF, *COUNTS):
        value = getattr(seen, name)
        if value is not None:
            expected = (*shape, shape[-1]) if len(dimensions_of(name)) == 2 else shape
            found[name] = _shaped(owner, name, value, expected).to(device, dtype)
            largest[name] = LARGEST_DOUBLE if value.dtype == torch.float64 else LARGEST_SINGLE
    everyone = torch.ones(shape, dtype=dtype, device=device)
    claimed = [counts for counts in COUNTS if found.setdefault(counts, everyone) is not everyone]
    training, validation = (_fill(found, counts, counts in claimed, largest) for counts in COUNTS)
    not_finite = [mask for mask in (training, validation) if mask is not None]
    return Clean(complete=training is None, **found), torch.stack(not_finite).any(0) if not_finite else None


def _shaped(owner: str, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    if value.shape == shape:
        return value
    if value.dim() == 0 and (shape == (1,) or name in COUNTS):
        return value.expand(shape)
    raise ValueError(f"{owner}: expected {name} of shape {shape}, found {tuple(value.shape)}")


def _fill(found: dict[str, Tensor], counts: Counts, is_claimed: bool, largest: Mapping[str, float]) -> Tensor | None:
    """Set the count of absent tasks to 0 and their numbers to 1. Returns as ``clean`` does."""
    given = _of_batch(found, counts)
    claimed = found[counts]
    if all(_seen_usable(found[name], largest[name]) for name in given) and (not is_claimed or _seen_positive(claimed)):
        return None
    finite = torch.ones_like(claimed, dtype=torch.bool)
    for name in given:
        size = found[name].abs()
        usable = size <= largest[name]
        found[name] = found[name].masked_fill(size < 1 / largest[name], 0.0)
        finite = finite & _usable_tasks(name, usable, counts, found)
    absent = (finite & (claimed > 0)).logical_not()
    _leave_out(found, counts, absent)
    return finite.logical_not() & (claimed > 0)


def without(seen: Clean, absent: Tensor) -> Clean:
    """The observation without some tasks of the training batch, bool ``(*batch_shape, K)``."""
    found: dict[str, Tensor] = {name: value for name in COUNTS_OF if (value := getattr(seen, name)) is not None}
    found["counts"] = seen.counts if seen.counts is not None else absent.logical_not().double()
    _leave_out(found, "counts", absent)
    return replace(seen, **found)


def _of_batch(found: Iterable[str], counts: Counts) -> list[Field]:
    """The fields that are there and have tasks of the batch."""
    return [field for field in FIELDS_OF[counts] if field in found]


def _leave_out(found: dict[str, Tensor], counts: Counts, absent: Tensor) -> None:
    found[counts] = found[counts].masked_fill(absent, 0.0)
    for name in _of_batch(found, counts):
        if name == "gramian":
            both = absent.unsqueeze(-1) | absent.unsqueeze(-2)
            alone = torch.eye(absent.shape[-1], dtype=found[name].dtype, device=absent.device)
            found[name] = torch.where(both, alone, found[name])
        elif name == "cross_gramian":
            found[name] = found[name].masked_fill(absent.unsqueeze(-2 if counts == "counts" else -1), 0.0)
        else:
            found[name] = found[name].masked_fill(absent, 1.0)


def _usable_tasks(field: Field, usable: Tensor, counts: Counts, found: Mapping[str, Tensor]) -> Tensor:
    """Tasks of the batch whose numbers are usable, bool ``(*batch_shape, K)``."""
    if field == "gramian":
        return _usable_rows(usable)
    if field != "cross_gramian":
        return usable
    if counts == "counts":
        # A task without a single usable product; of one that has some, what is not usable is the validation task's.
        rows = (found["val_counts"] > 0).unsqueeze(-1)
        return (usable & rows).any(-2) | rows.any(-2).logical_not()
    return (usable | (found["counts"] <= 0).unsqueeze(-2)).all(-1)


def _usable_rows(usable: Tensor) -> Tensor:
    """Tasks whose products are usable, bool ``(*batch_shape, K)``; those with a task that has none itself do not count."""
    own = usable.diagonal(dim1=-2, dim2=-1)
    return own & (usable | own.logical_not().unsqueeze(-2)).all(-1)


def _seen_usable(values: Tensor, largest: float) -> bool:
    """Whether all can stay as they are, as far as it can be seen without waiting."""
    if values.device.type != "cpu":
        return False
    # NaN compares with nothing; what holds a 0 is usable too, and is looked at more closely.
    numbers = visible(values if values.numel() <= FEW else torch.stack(torch.aminmax(values.abs())))
    smallest = 1 / largest
    return numbers is not None and all(smallest <= abs(number) <= largest for number in numbers)


def _seen_positive(values: Tensor) -> bool:
    """Whether all are above 0, as far as it can be seen without waiting."""
    numbers = visible(values)
    return numbers is not None and all(number > 0 for number in numbers)
