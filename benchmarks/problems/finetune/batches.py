"""Batches of the examples of all tasks: which are drawn, in what order, and how they lie in rows.

Every batch is a function of seed and step alone. What is drawn of a task does not depend on which tasks are chosen, so that
a single-task run sees the same examples of its task at the same steps.

A batch holds, for R rows of T tokens:

=========  ===========  ===================================================================================================
tokens     int64 (R, T)  filled up behind the examples
task       int64 (R, T)  place among all tasks of the task that learns to predict the token; -1 where none does
bytes      int64 (R, T)  UTF-8 bytes that the token stands for
segment    int64 (R, T)  packed rows alone: which example of its row the token belongs to, 0 behind the last
hidden     (R, T, H)     where frozen layers are cached: what came out of them
example    int64 (R,)    in evaluations: which example the row is, of those of all splits
=========  ===========  ===================================================================================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.contract import Batch, Data, Split
from benchmarks.problems.finetune import OWNER
from benchmarks.problems.finetune.examples import Example
from benchmarks.problems.finetune.frozen import Hidden
from benchmarks.seeds import generator

Drawn = tuple[int, int]
"""An example of a batch: its task and its place in the task's split."""


@dataclass(frozen=True)
class Layout:
    """How batches are made of examples.

    batch_size   examples of each task in a step with equal shares; with others, of a task on average
    temperature  tasks are drawn in shares n^(1/T) of their n training examples
    packed       whether rows hold several examples, which do not see one another
    row_length   most tokens of a packed row
    bucket       steps whose examples of a task are handed out by length, so that rows of a step are about equally long
    """

    batch_size: int
    temperature: float
    packed: bool
    row_length: int
    bucket: int


@dataclass(frozen=True)
class Part:
    """The examples of all tasks in one split, and their hidden states where those are cached."""

    examples: Sequence[Sequence[Example]]
    """By task."""
    starts: Sequence[int]
    """By task: how many examples of all splits come before its own."""
    hidden: Hidden | None

    def states(self, drawn: Drawn) -> Tensor | None:
        """``(T, H)`` hidden states of an example; None: they are not cached."""
        task, place = drawn
        return None if self.hidden is None else self.hidden[self.starts[task] + place]


class FinetuneData(Data):
    """The data of one seed.

    tasks   places of the chosen tasks among all
    budget  most learned tokens of a task in an evaluation; None: all
    """

    def __init__(
        self, seed: int, layout: Layout, tasks: Sequence[int], parts: Mapping[Split, Part], budget: int | None, content: str
    ) -> None:
        self.seed, self.layout, self.tasks, self.parts, self.budget = seed, layout, tuple(tasks), parts, budget
        train = [len(examples) for examples in parts["train"].examples]
        self.shares = shares(train, layout.temperature)
        self.quotas = [layout.batch_size * len(train) * share for share in self.shares]
        self._content = content
        self._orders: dict[tuple[int, int], Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which the task with most training examples for its share is seen once."""
        train = self.parts["train"].examples
        return max(math.ceil(len(examples) / quota) for examples, quota in zip(train, self.quotas, strict=True))

    @property
    def num_validation_batches(self) -> int:
        """Mini-batches in which the task with most validation examples is seen once; others come round earlier."""
        return max(math.ceil(len(examples) / self.layout.batch_size) for examples in self.parts["validation"].examples)

    @property
    def fingerprint(self) -> str:
        """Hash of the examples of all tasks in tokens."""
        return self._content

    def train_batch(self, step: int) -> Batch:
        """The examples that each task has a share in."""
        drawn = [(task, place) for task in self.tasks for place in self._drawn(task, step)]
        return self._collect("train", _in_turn(drawn))

    def validation_batch(self, index: int) -> Batch:
        """``batch_size`` examples of each task, whatever the shares in training."""
        size = self.layout.batch_size
        first = index % self.num_validation_batches * size
        counts = {task: len(self.parts["validation"].examples[task]) for task in self.tasks}
        drawn = [(task, place % counts[task]) for task in self.tasks for place in range(first, first + size)]
        return self._collect("validation", _in_turn(drawn))

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split once, one example a row, those of about one length together."""
        examples = self.parts[split].examples
        drawn = [(task, place) for task in self.tasks for place in self._within_budget(examples[task])]
        drawn.sort(key=lambda each: (len(examples[each[0]][each[1]].ids), each))
        # Wider batches than in training: fewer calls of the model, and no gradient needs the memory.
        width = max(4 * self.layout.batch_size, 8)
        for start in range(0, len(drawn), width):
            chosen = drawn[start : start + width]
            numbers = torch.tensor([self.parts[split].starts[task] + place for task, place in chosen])
            yield {**self._padded(self.parts[split], chosen), "example": numbers}

    def _within_budget(self, examples: Sequence[Example]) -> range:
        if self.budget is None:
            return range(len(examples))
        totals = accumulate(int(example.learned.sum()) for example in examples)
        return range(max(1, sum(total <= self.budget for total in totals)))

    # ---- which examples ------------------------------------------------------------------------------------------

    def _drawn(self, task: int, step: int) -> list[int]:
        """Places of the task's examples of a step."""
        bucket = self.layout.bucket
        window, inside = divmod(step, bucket)
        # All tasks turn to the same step of a window, so that their long examples meet.
        turned = int(torch.randperm(bucket, generator=generator(self.seed, OWNER, "window", window))[inside])
        ends = [self._handed_out(task, window * bucket + place) for place in range(bucket + 1)]
        places = [self._ordered(task, place) for place in range(ends[0], ends[-1])]
        lengths = [len(self.parts["train"].examples[task][place].ids) for place in places]
        by_length = [places[index] for index in np.argsort(lengths, kind="stable")]
        return by_length[ends[turned] - ends[0] : ends[turned + 1] - ends[0]]

    def _handed_out(self, task: int, step: int) -> int:
        """How many examples of a task the steps before this one have drawn."""
        return math.floor(step * self.quotas[task] + 1e-9)

    def _ordered(self, task: int, number: int) -> int:
        """The place of the example that a task draws as its ``number``-th: a new permutation in every epoch."""
        count = len(self.parts["train"].examples[task])
        epoch, inside = divmod(number, count)
        if (task, epoch) not in self._orders:
            if len(self._orders) >= 64:
                self._orders.clear()
            draw = generator(self.seed, OWNER, "order", task, epoch)
            self._orders[task, epoch] = torch.randperm(count, generator=draw)
        return int(self._orders[task, epoch][inside])

    # ---- how they lie --------------------------------------------------------------------------------------------

    def _collect(self, split: Split, drawn: Sequence[Drawn]) -> Batch:
        part = self.parts[split]
        return self._packed(part, drawn) if self.layout.packed else self._padded(part, drawn)

    def _padded(self, part: Part, drawn: Sequence[Drawn]) -> Batch:
        return _rows(part, [[each] for each in drawn])

    def _packed(self, part: Part, drawn: Sequence[Drawn]) -> Batch:
        lengths = {each: len(part.examples[each[0]][each[1]].ids) for each in drawn}
        rows: list[list[Drawn]] = []
        # Each into the first row with room for it, the longest first.
        for each in sorted(drawn, key=lambda each: -lengths[each]):
            room = (row for row in rows if sum(lengths[other] for other in row) + lengths[each] <= self.layout.row_length)
            row = next(room, None)
            if row is None:
                rows.append(row := [])
            row.append(each)
        found = _rows(part, rows)
        segment = torch.zeros_like(found["tokens"])
        for number, row in enumerate(rows):
            ends = [0, *accumulate(lengths[each] for each in row)]
            for place, (start, end) in enumerate(pairwise(ends), start=1):
                segment[number, start:end] = place
        return {**found, "segment": segment}


def _rows(part: Part, rows: Sequence[Sequence[Drawn]]) -> dict[str, Tensor]:
    """Rows of examples one behind the other, filled up to the longest."""
    examples = [[part.examples[task][place] for task, place in row] for row in rows]
    length = max((sum(len(example.ids) for example in row) for row in examples), default=1)
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    task, sizes = torch.full_like(tokens, -1), torch.zeros_like(tokens)
    hidden: list[Tensor] = []
    for number, (row, drawn) in enumerate(zip(examples, rows, strict=True)):
        start = 0
        for example, (own, _) in zip(row, drawn, strict=True):
            end = start + len(example.ids)
            tokens[number, start:end] = torch.from_numpy(example.ids.astype(np.int64))
            learned = torch.from_numpy(example.learned)
            task[number, start:end][learned] = own
            sizes[number, start:end] = torch.from_numpy(example.sizes.astype(np.int64))
            start = end
        states = [found for each in drawn if (found := part.states(each)) is not None]
        if states:
            hidden.append(functional.pad(torch.cat(states), (0, 0, 0, length - start)))
    batch = {"tokens": tokens, "task": task, "bytes": sizes}
    return batch if not hidden else {**batch, "hidden": torch.stack(hidden)}


def _in_turn(drawn: Sequence[Drawn]) -> list[Drawn]:
    """The first example of every task, then the second: so that micro-batches hold all tasks where they can."""
    turn: dict[int, int] = {}
    placed: list[tuple[int, int, Drawn]] = []
    for each in drawn:
        turn[each[0]] = turn.get(each[0], -1) + 1
        placed.append((turn[each[0]], len(placed), each))
    return [each for _, _, each in sorted(placed)]


def shares(counts: Sequence[int], temperature: float) -> list[float]:
    """The share of each task in the drawn examples: n^(1/T) over their sum."""
    powers = [float(count) ** (1 / temperature) for count in counts]
    return [power / sum(powers) for power in powers]


def content(tasks: Sequence[str], parts: Mapping[Split, Part]) -> str:
    """Hash of the examples of all tasks and splits."""
    digest = hashlib.sha256()
    for split in sorted(parts):
        for task, examples in zip(tasks, parts[split].examples, strict=True):
            digest.update(f"{split} {task} {len(examples)}\n".encode())
            for example in examples:
                digest.update(example.sha256)
    return digest.hexdigest()
