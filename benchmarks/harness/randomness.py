"""Random numbers of forward passes: a function of seed, step and purpose, whatever ran before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.seeds import derive
from weighting.passes import Draws, apart


def seed_generators(device: torch.device, seed: int, *purpose: str | int) -> None:
    """Seed the global generators of torch (on the CPU and the device), NumPy and Python."""
    number = derive(seed, *purpose)
    # Not torch.manual_seed, which also takes down a stack trace for devices that are not there.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - the global generator is what a problem's own code may draw from
    random.seed(number)


@dataclass(frozen=True)
class Generators:
    """Where the generators stand that ``seed_generators`` seeds."""

    torch_and_python: Draws
    numpy: Any

    @classmethod
    def now(cls, device: torch.device) -> Generators:
        """Where they stand."""
        return cls(Draws.now(device), np.random.get_state())  # noqa: NPY002 - the global generator, as above

    def restore(self) -> None:
        """Set them back."""
        self.torch_and_python.restore()
        np.random.set_state(self.numpy)  # noqa: NPY002

    def are_unmoved(self, device: torch.device) -> bool:
        """Whether nothing was drawn since."""
        now = Generators.now(device)
        one, other = self.torch_and_python, now.torch_and_python
        cuda = one.cuda is None or other.cuda is None or torch.equal(one.cuda, other.cuda)
        numpy = all(np.array_equal(old, new) for old, new in zip(self.numpy, now.numpy, strict=True))
        return cuda and numpy and torch.equal(one.cpu, other.cpu) and one.python == other.python


@contextmanager
def undisturbed(model: nn.Module, device: torch.device, *, evaluation: bool, grad: bool = False) -> Iterator[None]:
    """A pass after which generators, NumPy's too, buffers and modes are as they were before.

    evaluation  in evaluation mode, as on data that are not trained on; else in the mode that the model is in
    grad        with a graph
    """
    state = np.random.get_state()  # noqa: NPY002 - the global generator, as above
    try:
        with apart(model, evaluation=evaluation, device=device, grad=grad):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
