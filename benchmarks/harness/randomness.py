"""Random numbers of forward passes: a function of seed, step and purpose, whatever ran before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from benchmarks.seeds import derive
from weighting.passes import apart


def seed_generators(device: torch.device, seed: int, *purpose: str | int) -> None:
    """Seed the global generators of torch (on the CPU and the device), NumPy and Python."""
    number = derive(seed, *purpose)
    # Not torch.manual_seed, which also takes down a stack trace for devices that are not there.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - the global generator is what a problem's own code may draw from
    random.seed(number)


@contextmanager
def undisturbed(model: nn.Module, device: torch.device, *, evaluation: bool) -> Iterator[None]:
    """A pass without gradients after which generators, NumPy's too, buffers and modes are as they were before.

    evaluation  in evaluation mode, as on data that are not trained on; else in the mode that the model is in
    """
    state = np.random.get_state()  # noqa: NPY002 - the global generator, as above
    try:
        with apart(model, evaluation=evaluation, device=device):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
