"""Numbers per task as people have them, by name or in order, as one vector in the order of the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weighting.observation import Numbers, as_tensor

PerTask = Numbers | Mapping[str, Any]
"""K numbers in the order of the tasks, or a number by task; those that are left out are 0."""


def per_task(tasks: Sequence[str], name: str, values: PerTask) -> Tensor:
    """As ``(K,)``, with graph where they have one. name: what they are, for errors.

    Raises ValueError on an unknown task or another number of them.
    """
    if isinstance(values, Mapping):
        values = _by_name(tasks, name, values)
    found = as_tensor(name, values)
    if found.shape != (len(tasks),):
        raise ValueError(f"WeightedStep: expected {name} of {len(tasks)} tasks, found shape {tuple(found.shape)}")
    return found


def _by_name(tasks: Sequence[str], name: str, values: Mapping[str, Any]) -> Tensor:
    unknown = [task for task in values if task not in tasks]
    if unknown or not values:
        raise ValueError(f"WeightedStep: expected {name} of tasks {list(tasks)}, found {unknown or 'none'}")
    given = [as_tensor(name, value).reshape(()) for value in values.values()]
    widest = max((value.dtype for value in given), key=lambda dtype: (dtype.is_floating_point, dtype.itemsize))
    by_task = {task: value.to(widest) for task, value in zip(values, given, strict=True)}
    absent = torch.zeros_like(next(iter(by_task.values())), requires_grad=False)
    return torch.stack([by_task.get(task, absent) for task in tasks])
