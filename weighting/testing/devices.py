"""Checks that no step waits for a device, and that all of it happens on the device of the losses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from weighting import Observation, Weighter
from weighting.replaying import after_step, at_start, before_step
from weighting.testing.expectations import expect
from weighting.testing.settings import Subject
from weighting.testing.synthetic import half_way, script

READS = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal")
"""What makes the host wait for a device."""

ELSEWHERE = "lazy"
"""A device that every build of torch knows and that is not there: with fake tensors, it stands for any other."""


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the calls that make the host wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in READS:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def no_step_reads_a_value_on_the_host(subject: Subject) -> None:
    """weights, wants and update never turn a tensor into a Python number: on a GPU each such read waits for the device."""
    for batch_shape in ((), (2,)):
        shown = script(3, subject.steps(18), batch_shape=batch_shape, absent=True)
        weighter, _, rest = half_way(lambda shape=batch_shape: subject.make(batch_shape=shape), shown)  # type: ignore[misc]
        with Reads() as reads:
            for step in rest.steps:
                weighter.weights(before_step(weighter, step))
                weighter.update(after_step(weighter, step))
        expect(
            not reads.found, "no read of a value in a step", f"{len(reads.found)} ({', '.join(sorted(set(reads.found)))})"
        )


def everything_stays_on_the_device_of_the_losses(subject: Subject) -> None:
    """With fake tensors on a device that is not there: no tensor from the CPU is mixed in, answer and state stay there."""
    for batch_shape in ((), (2,)):
        shown = script(3, subject.steps(9), batch_shape=batch_shape, absent=True)
        asked, weighter = subject.make(batch_shape=batch_shape), subject.make(batch_shape=batch_shape)
        first = at_start(asked, shown.first)
        asked.start(first)
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            moved(weighter).start(elsewhere(first))
        for step in shown.steps:
            before, after = before_step(asked, step), after_step(asked, step)
            asked.update(after)
            with mode:
                answer = weighter.weights(elsewhere(before)).device.type
                weighter.update(elsewhere(after))
            expect(answer == ELSEWHERE, "weights on the device of the losses", answer)
            left = [name for name, value in weighter.named_buffers() if value.device.type != ELSEWHERE]
            expect(not left, "the state on the device of the losses", f"{', '.join(left)} on another")


def elsewhere(seen: Observation) -> Observation:
    """An observation of the same shapes on the device that is not there."""
    values = {field.name: getattr(seen, field.name) for field in fields(seen)}
    return Observation(**{name: _there(value) for name, value in values.items() if value is not None})


def moved(weighter: Weighter) -> Weighter:
    """The method with its state there; ``to`` would look for the device."""
    for module in weighter.modules():
        for key, value in module.named_buffers(recurse=False):
            setattr(module, key, _there(value))
    return weighter


def _there(value: Tensor) -> Tensor:
    return torch.ones(value.shape, dtype=value.dtype, device=ELSEWHERE)
