"""Runs in this process, one after the other: for debuggers, profilers and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.executor import Lost, Progress
from benchmarks.harness.worker import Job, WorkerEvent, run_job


class HereExecutor:
    """One slot, which blocks until its run has ended."""

    slots = 1
    warnings: Sequence[str] = ()

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._job: Job | None = None
        self._stopping = False

    def why_wait(self, job: Job) -> str:
        """Nothing else is running."""
        return ""

    def start(self, slot: int, job: Job) -> None:
        """It begins when it is listened to."""
        self._job = job

    def hear(self, seconds: float) -> Sequence[tuple[int, WorkerEvent | Lost]]:
        """Train the run that was started."""
        if self._job is None:
            return []
        job, self._job = self._job, None
        return [(0, run_job(job, lambda event: self._progress(0, event), lambda: self._stopping))]

    def stop(self) -> None:
        """At its next step."""
        self._stopping = True

    def close(self) -> None:
        """Nothing is left behind."""
