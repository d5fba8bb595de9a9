"""An executor that trains in this process, or ends runs as it is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.harness.dispatcher import PlanResult, _Dispatcher
from benchmarks.harness.executor import Lost
from benchmarks.harness.pairs import Pairs
from benchmarks.harness.worker import Job, WorkerEvent, run_job
from benchmarks.records.schema import RunSpec


class Unlucky:
    """Ends each run as it is told, in turn; trains it in this process where it is told nothing more."""

    slots = 2
    warnings: Sequence[str] = ()

    def __init__(self, *ends: WorkerEvent | Lost) -> None:
        self.ends, self.started, self.stopped, self.closed = list(ends), list[str](), False, False
        self._now: list[tuple[int, Job]] = []

    def why_wait(self, job: Job) -> str:
        return ""

    def start(self, slot: int, job: Job) -> None:
        self.started.append(job.spec.key)
        self._now.append((slot, job))

    def hear(self, seconds: float) -> Sequence[tuple[int, WorkerEvent | Lost]]:
        if not self._now:
            return []
        slot, job = self._now.pop(0)
        return [(slot, self.ends.pop(0) if self.ends else run_job(job, lambda _: None, lambda: self.stopped))]

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


def carried_out(jobs: list[Job], executor: Unlucky, beside: Iterable[RunSpec] = ()) -> PlanResult:
    """beside: all runs of the plan, where the time of some is taken again."""
    result = PlanResult()
    _Dispatcher(jobs, result, len(jobs), Pairs(beside), wait=True).run(executor)
    return result
