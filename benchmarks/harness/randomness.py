"""Random numbers of forward passes: a function of seed, step and purpose, whatever ran before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from benchmarks.seeds import derive


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
    """A pass without gradients after which generators, buffers and modes are as they were before.

    evaluation  in evaluation mode, as on data that are not trained on; else in the mode that the model is in
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    if evaluation:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, version, value in buffers:
                # In evaluation mode only what was written to: a backward pass to come may need the rest as it is.
                if not evaluation or buffer._version != version:
                    buffer.copy_(value)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)
