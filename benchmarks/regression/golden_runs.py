"""A few real training steps of listed problems through the harness: sees what it shows to a method, not the method alone.

Everything is computed in float64, so that the weights are the same on other processors up to rounding that the tolerance
of the replay leaves room for; in float32 they would drift apart within a few steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.catalog import problem_class
from benchmarks.contract import Batch, Data, Problem, Split, Training
from benchmarks.harness.loop import Loop
from weighting import RunFacts, Weighter
from weighting._build import build

STEPS = 12
SMALL: dict[str, dict[str, Any]] = {
    "multidigits": {"train_pairs": 128, "validation_pairs": 64, "test_pairs": 64},
    "gradnorm_toy": {"train_examples": 256, "validation_examples": 128, "test_examples": 128},
}
"""Listed problems with small data that every machine has (the text of code_lm depends on the packages installed)."""


class _InDouble(Problem):
    """Goes before a problem in the order of its bases: parameters and data in float64."""

    def model(self, seed: int) -> nn.Module:
        return super().model(seed).double()  # type: ignore[safe-super]

    def data(self, seed: int, training: Training) -> Data:
        return _DoubleData(super().data(seed, training))  # type: ignore[safe-super]


class _DoubleData(Data):
    def __init__(self, data: Data) -> None:
        self.inner = data

    @property
    def steps_per_epoch(self) -> int:
        return self.inner.steps_per_epoch

    @property
    def num_validation_batches(self) -> int:
        return self.inner.num_validation_batches

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def train_batch(self, step: int) -> Batch:
        return _double(self.inner.train_batch(step))

    def validation_batch(self, index: int) -> Batch:
        return _double(self.inner.validation_batch(index))

    def batches(self, split: Split) -> Iterator[Batch]:
        return (_double(batch) for batch in self.inner.batches(split))


def _double(batch: Batch) -> Batch:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}


def train(problem_name: str, kind: type[Weighter]) -> list[list[float]]:
    """Weights of the first steps of a small run, steps by tasks."""
    listed = problem_class(problem_name)
    double: type[Problem] = type(f"{listed.__name__}InDouble", (_InDouble, listed), {})
    problem = double(**SMALL[problem_name])
    training = listed.training.model_copy(update={"steps": STEPS, "batch_size": min(32, listed.training.batch_size)})
    data = problem.data(0, training)
    facts = RunFacts(steps=STEPS, steps_per_epoch=data.steps_per_epoch, val_batches=data.num_validation_batches, seed=0)
    weighter = build(kind, problem.num_tasks, batch_shape=problem.batch_shape, **_short(kind, facts))
    loop = Loop(problem, data, weighter, training, 0, device=torch.device("cpu"))
    loop.begin()
    return [loop.train_step().weights.flatten().tolist() for _ in range(STEPS)]


def _short(kind: type[Weighter], facts: RunFacts) -> dict[str, Any]:
    """A method's defaults for a run, with warm-up and window short enough to end within it."""
    decided = kind.defaults_for(facts)
    return {**decided, **{name: value for name, value in (("warmup", 3), ("window", 4)) if name in decided}}
