"""Checks of what users pass when a method or a problem is created: one line with what was expected and what was found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check(
    owner: str,
    name: str,
    value: object,
    *,
    integer: bool = False,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """The value as an int or a float, if it is a finite number (or an integer) within its bounds: >= ge, > gt, <= le, < lt.

    Numbers of Python and NumPy are taken, and tensors and arrays of no dimension. Raises ValueError of one line.
    """
    number = _number(value)
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("at least", ge), ("above", gt), ("at most", le), ("below", lt))
        if bound is not None
    ]
    expected = " ".join(["an integer" if integer else "a finite number", " and ".join(bounds)]).strip()
    if (
        number is None
        or (integer and not isinstance(number, int))
        or not math.isfinite(number)
        or (ge is not None and number < ge)
        or (gt is not None and number <= gt)
        or (le is not None and number > le)
        or (lt is not None and number >= lt)
    ):
        raise ValueError(f"{owner}: expected {name} to be {expected}, found {value!r}")
    return number


def check_choice(owner: str, name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ValueError of one line unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{owner}: expected {name} to be one of {', '.join(choices)}, found {value!r}")


def task_vector(owner: str, name: str, value: object, num_tasks: int) -> Tensor:
    """A float64 vector with one number per task, from one number for all or K numbers. Raises ValueError of one line.

    A sequence, an array or a tensor of K numbers is taken, and whatever ``check`` takes as one number.
    """
    if _number(value) is not None or not isinstance(value, Iterable):
        numbers: list[object] = [value] * num_tasks
    else:
        numbers = list(value)
    if len(numbers) != num_tasks:
        raise ValueError(f"{owner}: expected {name} with {num_tasks} numbers, one per task, found {len(numbers)}: {value!r}")
    found = [float(check(owner, f"every number of {name}", number)) for number in numbers]
    return torch.tensor(found, dtype=torch.float64, device="cpu")


def _number(value: Any) -> int | float | None:
    """A Python number of the same value; None for anything that is no real number, bool included."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return int(value) if isinstance(value, Integral) else float(value)
