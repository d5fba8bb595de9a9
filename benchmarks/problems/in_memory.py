"""Data that fit into memory: three splits of named tensors, training order drawn anew for every epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.contract import Batch, Data, Split
from benchmarks.seeds import generator

ROWS_AT_ONCE = 500
"""Examples of an evaluation batch; no result depends on it beyond rounding."""


class InMemory(Data):
    """Splits held as tensors whose first dimension counts the examples.

    owner       name of the problem, part of the seeds and of error messages
    seed        of the training order; the splits are drawn by the problem
    splits      split -> named tensors ``(N, ...)``, all of one split equally long
    batch_size  1 <= batch_size <= N of the training split

    Every epoch is a new permutation of the training split, cut into full batches; the N mod batch_size examples left over
    are others in every epoch. Raises ValueError on a batch larger than the training split.
    """

    def __init__(self, owner: str, seed: int, splits: Mapping[Split, Batch], batch_size: int) -> None:
        self._owner, self._seed, self._splits, self._batch_size = owner, seed, splits, batch_size
        self._num_train, self._num_validation = count(splits["train"]), count(splits["validation"])
        if batch_size > self._num_train:
            raise ValueError(f"{owner}: expected batch_size to be at most {self._num_train}, found {batch_size}")
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)
        self._fingerprint = _hash(splits)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training split."""
        return self._num_train // self._batch_size

    @property
    def num_validation_batches(self) -> int:
        """Batches that hold every validation example; the last one is filled up with the first examples."""
        return -(-self._num_validation // self._batch_size)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes, types and bytes of all tensors."""
        return self._fingerprint

    def train_batch(self, step: int) -> Batch:
        """Batch ``step mod steps_per_epoch`` of the permutation of its epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            draw = generator(self._seed, self._owner, "order", epoch)
            self._epoch, self._order = epoch, torch.randperm(self._num_train, generator=draw)
        rows = self._order[position * self._batch_size : (position + 1) * self._batch_size]
        return {name: tensor.index_select(0, rows) for name, tensor in self._splits["train"].items()}

    def validation_batch(self, index: int) -> Batch:
        """Consecutive validation examples, as many as in a training batch."""
        first = index % self.num_validation_batches * self._batch_size
        rows = torch.arange(first, first + self._batch_size) % self._num_validation
        return {name: tensor.index_select(0, rows) for name, tensor in self._splits["validation"].items()}

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split once, in the order it is stored."""
        tensors = self._splits[split]
        for first in range(0, count(tensors), ROWS_AT_ONCE):
            yield {name: tensor[first : first + ROWS_AT_ONCE] for name, tensor in tensors.items()}


def count(batch: Batch) -> int:
    """How many examples a batch holds."""
    return next(iter(batch.values())).shape[0]


def _hash(splits: Mapping[Split, Batch]) -> str:
    digest = hashlib.sha256()
    for split in sorted(splits):
        for name, tensor in sorted(splits[split].items()):
            digest.update(f"{split}/{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def mean_over_rows(values: list[Tensor], rows: list[int]) -> Tensor:
    """Mean over all examples of batch means ``(K,)``, whatever the batches' sizes: ``(K,)``, float64, on the CPU."""
    sizes = torch.tensor(rows, dtype=torch.float64)
    stacked = torch.stack([value.detach().cpu().double() for value in values])
    return (stacked * sizes.unsqueeze(-1)).sum(0) / sizes.sum()
