"""Tasks of tokens: collating a task per example, and each task's summed nats and counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

COLUMN = "task"
IGNORED = -100
"""The label of a token that is not predicted."""


class TaskCollator:
    """A collator that keeps the column of tasks, whatever the one inside makes of other columns.

    inner   makes a batch of examples without that column
    tasks   names; an example has one of them, or its number
    column  its name in the examples; in the batch it is ``task``

    ``batch["task"]`` is ``(rows,)``, or per token ``(1, tokens)`` where ``inner`` puts all examples into one row. Examples
    without the column are passed on as they are. Raises ValueError on an unknown task.
    """

    def __init__(self, inner: Callable[[list[Any]], Any], tasks: Sequence[str], column: str = COLUMN) -> None:
        self.inner, self.tasks, self.column = inner, tuple(tasks), column

    def __call__(self, examples: list[Any]) -> Any:
        """A batch of a list of examples."""
        if self.column not in examples[0]:
            return self.inner(examples)
        ids = torch.tensor([number_of(example[self.column], self.tasks, self.column) for example in examples])
        batch = self.inner([{key: value for key, value in example.items() if key != self.column} for example in examples])
        if "input_ids" in batch and len(batch["input_ids"]) != len(examples):
            lengths = torch.tensor([len(example["input_ids"]) for example in examples])
            ids = ids.repeat_interleave(lengths)[None]
        batch[COLUMN] = ids
        return batch


def number_of(task: Any, tasks: Sequence[str], column: str = COLUMN) -> int:
    """The number of a task that is given by name or number. Raises ValueError if it is unknown."""
    if isinstance(task, str) and task in tasks:
        return tasks.index(task)
    if not isinstance(task, str) and 0 <= int(task) < len(tasks):
        return int(task)
    raise ValueError(f"expected in column {column!r} one of {list(tasks)} or 0 to {len(tasks) - 1}, found {task!r}")


def token_counts(batch: Mapping[str, Any], num_tasks: int) -> Tensor:
    """``(K,)`` predicted tokens of each task in a batch of ``labels`` ``(rows, tokens)`` and ``task``.

    Raises ValueError where the batch lacks one of them.
    """
    labels, task = _labels_and_task(batch)
    return _by_task((labels[:, 1:] != IGNORED).long(), task, num_tasks)


def token_sums(logits: Tensor, batch: Mapping[str, Any], num_tasks: int) -> Tensor:
    """``(K,)`` summed nats of each task's predicted tokens, at least float32. logits: ``(rows, tokens, vocabulary)``."""
    labels, task = _labels_and_task(batch)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nats = cross_entropy(wide[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
    return _by_task(nats, task, num_tasks)


def sums_of_nats(nats: Tensor, batch: Mapping[str, Any], num_tasks: int) -> Tensor:
    """``(K,)`` of the nats of every next token, ``(rows, tokens - 1)``, 0 where none is predicted."""
    return _by_task(nats, _labels_and_task(batch)[1], num_tasks)


def _labels_and_task(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    for name in ("labels", COLUMN):
        if batch.get(name) is None:
            raise ValueError(
                f"expected a batch with {name!r}, found {sorted(batch)}; add the column to the data, keep it in the "
                "collator, or override task_losses() and task_counts()"
            )
    return batch["labels"], batch[COLUMN]


def _by_task(each: Tensor, task: Tensor, num_tasks: int) -> Tensor:
    """Sums by task of ``(rows, tokens - 1)``; task per row or per token."""
    if task.dim() == 2:
        each, task = each.flatten(), task[:, 1:].flatten()
    else:
        each = each.sum(1)
    return torch.zeros(num_tasks, dtype=each.dtype, device=each.device).index_add(0, task.to(each.device), each)
