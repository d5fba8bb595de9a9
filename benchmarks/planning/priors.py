"""``prior`` in a suite: constants that multiply a method's weights, in the order of the tasks or by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.errors import unknown

NAME = "prior"


def priors(value: Any, tasks: Sequence[str]) -> list[Any]:
    """The priors that an entry of a suite asks for, each as K numbers in the order of the tasks, or None.

    value  one number for all tasks; a list of K numbers; a mapping task -> number, 1 for tasks that it does not name; or a
           list that holds lists, mappings or None, which is a grid; ones are no prior

    Raises ValueError on a task that is not trained. What is no number, or too few of them, is left to the method.
    """
    is_grid = isinstance(value, list) and any(item is None or isinstance(item, list | Mapping) for item in value)
    return [_in_order(item, tasks) for item in (value if is_grid else [value])]


def _in_order(value: Any, tasks: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        for task in value:
            if task not in tasks:
                raise ValueError(unknown("task", str(task), tasks))
        value = [value.get(task, 1) for task in tasks]
    elif isinstance(value, int | float):
        value = [value] * len(tasks)
    # Ones change no weight: the run is the one without a prior.
    is_ones = isinstance(value, list) and value == [1] * len(tasks) and not any(isinstance(one, bool) for one in value)
    return None if is_ones else value
