"""Seconds per step, as a step takes them when nothing else wants the processor.

Runs share a machine: with each other, with whatever its owner does. A step that had to wait for a processor says nothing of
the method. So each block of steps is timed twice, by the clock on the wall and by the processor time that the process was
given, and blocks in which it mostly waited are left out. Where that leaves too few, all count and the run is flagged.

What two busy processors take from each other (memory, cache, a neighbour of a virtual machine) is not seen here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.records.schema import DISTURBED, Flag

BUSY = 0.9
"""A block counts as undisturbed if the process was computing for this share of it, in at least one thread."""
ENOUGH = 0.1
"""Share of a run's blocks that must be undisturbed for the others to be left out."""


class Stopwatch:
    """The times of a run's blocks of steps. On CUDA a process waits for the device, so that there every block counts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.busy_seconds: list[float] = []
        self.steps: list[int] = []

    @contextmanager
    def block(self, steps: int) -> Iterator[None]:
        """Time what is done inside, which makes so many steps."""
        self._synchronize()
        started, busy = time.perf_counter(), time.process_time()
        yield
        self._synchronize()
        self.seconds.append(time.perf_counter() - started)
        self.busy_seconds.append(time.process_time() - busy)
        self.steps.append(steps)

    @property
    def seconds_per_step(self) -> float:
        """Median over the blocks that count. There must be one block at least."""
        return float(np.median((np.array(self.seconds) / np.array(self.steps))[self._counted()]))

    @property
    def total_seconds(self) -> float:
        """Of all blocks, the disturbed ones included."""
        return float(sum(self.seconds))

    def flags(self) -> list[Flag]:
        """A flag where too few blocks were undisturbed."""
        if not self.seconds or self._enough():
            return []
        waited = 1 - sum(self.busy_seconds) / self.total_seconds
        text = f"the process waited for a processor for {waited:.0%} of its training time: s/step is too high"
        return [Flag(name=DISTURBED, text=text)]

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"seconds": self.seconds, "busy_seconds": self.busy_seconds, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.seconds, self.busy_seconds, self.steps = state["seconds"], state["busy_seconds"], state["steps"]

    def _undisturbed(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if self.device.type != "cpu":
            return np.ones(len(self.seconds), dtype=np.bool_)
        return np.array(self.busy_seconds) >= BUSY * np.array(self.seconds)

    def _enough(self) -> bool:
        return bool(self._undisturbed().mean() >= ENOUGH)

    def _counted(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        undisturbed = self._undisturbed()
        return undisturbed if self._enough() else np.ones_like(undisturbed)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
