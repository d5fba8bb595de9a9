"""Extra forward passes that leave no trace: generators, buffers and modes are afterwards what they were before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Draws:
    """Where the random generators of torch (on the CPU and on a CUDA device) and of Python stand."""

    cpu: Tensor
    cuda: Tensor | None
    python: Any
    device: torch.device | None

    @classmethod
    def now(cls, device: torch.device | None = None) -> Draws:
        """Where they stand. device: whose generator besides the CPU's; None: the current CUDA device's, if there is one."""
        if device is None and torch.cuda.is_available():
            device = torch.device("cuda", torch.cuda.current_device())
        cuda = torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, random.getstate(), device)

    def restore(self) -> None:
        """Set them back."""
        torch.set_rng_state(self.cpu)
        random.setstate(self.python)
        if self.cuda is not None and self.device is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


@contextmanager
def apart(
    model: nn.Module | None,
    *,
    evaluation: bool,
    device: torch.device | None = None,
    draws: Draws | None = None,
    grad: bool = False,
) -> Iterator[None]:
    """A pass beside the training, after which generators, buffers and modes are as they were before.

    model       whose buffers and modes are kept; None: only the generators are
    evaluation  in evaluation mode, as on data that are not trained on; else in the mode that the model is in
    device      as in ``Draws.now``
    draws       the pass draws the random numbers (dropout) that a pass from there drew; None: those that would come next
    grad        with a graph
    """
    before, modules = Draws.now(device), [] if model is None else list(model.modules())
    modes = [(module, module.training) for module in modules]
    buffers = [] if model is None else [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    if draws is not None:
        draws.restore()
    if model is not None and evaluation:
        model.eval()
    try:
        with torch.set_grad_enabled(grad):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, version, value in buffers:
                # Batch normalization writes running means without a new version. What was not written to stays as it is: a
                # backward pass to come may need it so.
                if buffer._version != version or not (evaluation or torch.equal(buffer, value)):
                    buffer.copy_(value)
        before.restore()
