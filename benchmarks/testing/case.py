"""A problem made small, with its data and its model: what a check looks at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch, Data, Evaluation, Problem, Split, Training
from benchmarks.harness.randomness import seed_generators, undisturbed

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
CPU = torch.device("cpu")
ROWS = 8
"""Examples of a batch at most."""


@dataclass
class Case:
    """A problem of one seed and one choice of tasks. Problem, data and model are made when they are first asked for."""

    kind: type[Problem]
    seed: int = 0
    tasks: Sequence[str] | None = None

    def replace(self, **changes: Any) -> Case:
        """The same with another seed or other tasks, made anew."""
        return Case(**{"kind": self.kind, "seed": self.seed, "tasks": self.tasks, **changes})

    @cached_property
    def problem(self) -> Problem:
        """With the options that make it small."""
        return self.kind(tasks=self.tasks, **self.kind.small)

    @cached_property
    def training(self) -> Training:
        """The problem's own settings, with small batches."""
        own = self.problem.training
        return own.model_copy(update={"batch_size": min(own.batch_size, ROWS)})

    @cached_property
    def data(self) -> Data:
        """Of the seed."""
        return self.problem.data(self.seed, self.training)

    @cached_property
    def model(self) -> nn.Module:
        """With the initial parameters of the seed; some problems know their model only after ``data``."""
        assert self.data is not None
        return self.problem.model(self.seed)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*batch_shape, K)``."""
        return (*self.problem.batch_shape, self.problem.num_tasks)

    @property
    def steps(self) -> tuple[int, ...]:
        """The first step, the second, and one after the first epoch."""
        return (0, 1, self.data.steps_per_epoch + 1)

    @property
    def cuts_by_rows(self) -> bool:
        """Whether the leading dimension of every tensor counts examples."""
        return self.kind.micro_batches is Problem.micro_batches

    def losses(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Losses as a training step gets them, without gradients; equal draws each time, and nothing is left changed."""
        own = self.model if model is None else model
        with undisturbed(own, CPU, evaluation=False):
            seed_generators(CPU, self.seed, "check")
            return self.problem.losses(own, batch)

    def evaluation(self, split: Split, model: nn.Module | None = None) -> Evaluation:
        """As the harness evaluates."""
        own = self.model if model is None else model
        with undisturbed(own, CPU, evaluation=True):
            seed_generators(CPU, self.seed, "check", split)
            return self.problem.evaluate(own, self.data.batches(split))

    def fewer(self) -> list[Case]:
        """Single tasks, the first and the last, and those two in reverse."""
        tasks = self.problem.tasks
        chosen = dict.fromkeys([tasks[:1], tasks[-1:], *([(tasks[-1], tasks[0])] if len(tasks) > 1 else [])])
        return [self.replace(tasks=each) for each in chosen]


def hash_of(tensors: Batch) -> str:
    """Of names and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def different(one: Batch, other: Batch) -> str | None:
    """The name of a tensor in which two batches differ; None: they are equal."""
    if one.keys() != other.keys():
        return next(iter(sorted(one.keys() ^ other.keys())))
    return next((name for name in one if hash_of({name: one[name]}) != hash_of({name: other[name]})), None)
