"""Whether there is memory for one more run: known from what runs of its kind have taken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.records.schema import RunSpec

MARGIN = 1.1
"""A run is taken to need this much more than what those of its kind have taken so far."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Running:
    """A run that is being trained."""

    spec: RunSpec
    pid: int
    trains: bool
    """Whether it has made its first steps, so that its memory says what it needs."""


class MemoryGate:
    """Lets one run at a time start as long as there is room for it; one may always run.

    available, taken  in bytes: free memory, and what a process holds; given in tests
    """

    def __init__(self, *, available: Callable[[], float] | None = None, taken: Callable[[int], float] | None = None) -> None:
        self._available, self._taken = available or available_memory, taken or _resident
        self.largest: dict[str, float] = {}
        """Kind of run -> most bytes that one has held so far."""

    def look(self, running: Sequence[Running]) -> None:
        """Take note of what the runs hold."""
        for run in running:
            if run.trains:
                kind = kind_of(run.spec)
                self.largest[kind] = max(self.largest.get(kind, 0.0), self._taken(run.pid))

    def why_not(self, spec: RunSpec, running: Sequence[Running]) -> str:
        """Why the run should wait for one of those to end; empty where it may start."""
        if not running:
            return ""
        kind = kind_of(spec)
        if kind not in self.largest:
            unknown = any(kind_of(run.spec) == kind for run in running)
            return "what a run of its kind needs is not known yet" if unknown else ""
        need = MARGIN * self.largest[kind]
        growth = sum(max(0.0, self.largest.get(kind_of(run.spec), need) - self._taken(run.pid)) for run in running)
        free = self._available() - growth
        if free >= need:
            return ""
        return f"a run of {spec.problem.name} takes {need / 2**20:.0f} MB and {max(0.0, free) / 2**20:.0f} MB are free"


def kind_of(spec: RunSpec) -> str:
    """Runs of one kind take about as much memory: problem, its options, tasks and batch size."""
    problem = spec.problem
    return json.dumps([problem.name, problem.options, len(problem.tasks), spec.training.batch_size], default=str)


def available_memory(cgroup: Path = CGROUP) -> float:
    """Bytes that may still be taken: by the system's account, and by that of the control group, if it has a limit."""
    free = float(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(free, float(limit) - float(used)) if limit != "max" else free
    except (OSError, ValueError):
        return free


def _resident(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0.0


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
