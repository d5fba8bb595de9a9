"""Which validation examples a method is shown after each step: mini-batches that wrap, resume and are shared among ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from weighting._checks import check


class ValidationFeed:
    """Mini-batches of a validation set, in a fixed order, round and round.

    data        examples by index, with a length
    collate     makes a batch of a list of examples
    batch_size  examples of a mini-batch over all ranks
    tasks       the number of each example's task, 0 to K - 1: every mini-batch then holds equally many examples of each
                task, ``batch_size / K``; None: as the data come
    batches     mini-batches per update of the method
    rank, ranks  this process, of how many; each example of a mini-batch is with one rank alone; a sharded model (FSDP) wants
                ``batch_size`` of at least ``ranks``, so that all of them pass

    A task, or a set, of fewer examples than asked for gives each of them once. Raises ValueError on an empty set, or where
    ``batch_size`` is no multiple of the number of tasks.
    """

    def __init__(
        self,
        data: Any,
        collate: Callable[[list[Any]], Any],
        *,
        batch_size: int,
        tasks: Sequence[int] | None = None,
        batches: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.data, self.collate = data, collate
        self.batch_size: int = check("ValidationFeed", "batch_size", batch_size, integer=True, ge=1)
        self.batches: int = check("ValidationFeed", "batches", batches, integer=True, ge=1)
        self.rank, self.ranks = rank, ranks
        self.position = 0
        """Updates that have been fed."""
        if len(data) == 0:
            raise ValueError("ValidationFeed: expected validation examples, found none")
        self.groups = [list(range(len(data)))] if tasks is None else _by_task(tasks)
        if self.batch_size % len(self.groups):
            raise ValueError(
                f"ValidationFeed: expected batch_size as a multiple of {len(self.groups)} tasks, found {self.batch_size}"
            )

    def take(self) -> list[Any]:
        """This rank's part of the mini-batches of the coming update; the next ``take`` gives the same until ``advance``."""
        first = self.position * self.batches
        return self._collated(self._rows(number) for number in range(first, first + self.batches))

    def advance(self) -> None:
        """The update was made: go on to the next mini-batches."""
        self.position += 1

    def everything(self) -> Iterator[Any]:
        """This rank's part of the whole set, each example once, in as many batches as every other rank."""
        rows = range(len(self.data))
        # A sharded model waits for all ranks in each pass: too few rows for all of them go with the batch before.
        starts = range(0, max(len(rows) - self.ranks, 0) + 1, self.batch_size)
        ends = [*starts[1:], len(rows)]
        yield from self._collated(rows[start:end] for start, end in zip(starts, ends, strict=True))

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken."""
        self.position = state["position"]

    def _rows(self, number: int) -> list[int]:
        """The examples of one mini-batch over all ranks."""
        found = []
        for group in self.groups:
            size = self.batch_size // len(self.groups)
            start = number * size
            found += [group[place % len(group)] for place in range(start, start + min(size, len(group)))]
        return found

    def _collated(self, rows: Any) -> list[Any]:
        own = [list(each)[self.rank :: self.ranks] for each in rows]
        return [self.collate([self.data[row] for row in each]) for each in own if each]


def _by_task(tasks: Sequence[int]) -> list[list[int]]:
    """Examples of each task; tasks without any are left out."""
    groups = [[row for row, task in enumerate(tasks) if task == wanted] for wanted in range(max(tasks) + 1)]
    return [group for group in groups if group]
