"""What carries out runs, apart from which run comes next: an executor has slots, and says how each run ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from benchmarks.harness.worker import Job, WorkerEvent
from benchmarks.records.schema import State

Progress = Callable[[int, WorkerEvent], None]
"""Called with the slot of a run and how far it is."""


ExecutorName = Literal["local", "here", "ray"]


@dataclass(frozen=True)
class Cluster:
    """Where an executor that is not bound to this machine finds others, and how runs share them."""

    address: str = "local"
    """``HOST:PORT``; ``auto``: the cluster that this machine belongs to; ``local``: a new one of this machine alone."""
    new_processes: bool = False
    """Whether every run has a process of its own; else a process trains one run after the other."""


@dataclass(frozen=True)
class Lost:
    """A run ended without saying how, or never began."""

    reason: str
    again: bool = False
    """It was not the run's doing, as when a machine goes down: it is tried again instead of recorded."""
    state: State = "crashed"
    """Of its record, if it gets one."""


class Executor(Protocol):
    """Calls ``worker.run_job`` for each job, somewhere."""

    @property
    def slots(self) -> int:
        """Runs at the same time."""

    @property
    def warnings(self) -> Sequence[str]:
        """What the user has to know at the end, one line each."""

    def why_wait(self, job: Job) -> str:
        """Why a job should wait although a slot is free, in words; empty: it may start."""

    def start(self, slot: int, job: Job) -> None:
        """Begin a run in a free slot. Raises StorageError where the system has no room for it."""

    def hear(self, seconds: float) -> Sequence[tuple[int, WorkerEvent | Lost]]:
        """The slots of the runs that have ended, and how; waits so long at most if there are none."""

    def stop(self) -> None:
        """Ask all runs to end with their checkpoints; their ends are still heard."""

    def close(self) -> None:
        """Nothing more will be started."""
