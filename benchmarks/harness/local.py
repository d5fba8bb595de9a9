"""Runs in processes of this machine, one each: every run has its own memory account, and a crash takes no other along."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

from benchmarks.catalog import problem_class
from benchmarks.errors import StorageError
from benchmarks.harness.devices import Devices
from benchmarks.harness.executor import Lost, Progress
from benchmarks.harness.interrupts import SIGNALS, StopSwitch
from benchmarks.harness.memory import MemoryGate, Running
from benchmarks.harness.processes import LostError, Process, ProcessStarter
from benchmarks.harness.worker import Job, WorkerEvent, run_job

PRELOADED = ("benchmarks.harness.worker", "benchmarks.harness.local", "torch._dynamo")
"""What every worker needs. The first optimizer of a process imports torch._dynamo, which takes more than a second."""


def work(job: Job, writer: Connection) -> None:
    """Entry point of a worker. Sends how it went; leaves when its parent is gone."""
    asked_to_stop = StopSwitch()
    for number in SIGNALS:
        # Ctrl-C and a closed terminal reach every process: whether a worker is to stop, its parent says.
        signal.signal(number, asked_to_stop.switch if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        # Held back until now, see ``processes``.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        writer.send(run_job(job, writer.send, asked_to_stop))
    except (BrokenPipeError, EOFError):
        sys.exit(1)


@dataclass
class _Worker:
    job: Job
    process: Process
    slot: int
    last: WorkerEvent | None = None
    """How it ended, once it has said so."""
    trains: bool = False
    """Whether it has sent its first steps."""


class LocalExecutor:
    """At most ``slots`` workers at a time, as far as there is memory for them.

    jobs     all that may be started, for what the workers have in common
    devices  shared out among the slots
    give_up  asked before a start that failed is tried again
    """

    def __init__(
        self, jobs: Sequence[Job], slots: int, devices: Devices, progress: Progress, give_up: Callable[[], bool]
    ) -> None:
        self.slots, self._devices = slots, devices
        self._progress, self._give_up = progress, give_up
        self._workers: list[_Worker] = []
        self._never_began: list[tuple[int, Lost]] = []
        self._memory, self._little_memory = MemoryGate(), ""
        self._stopping = False
        self._starter = ProcessStarter(_preload(jobs))

    @property
    def warnings(self) -> list[str]:
        """That the server was killed, and that there was not memory enough."""
        killed = [self._starter.said] if self._starter.restarts else []
        return killed + ([self._little_memory] if self._little_memory else [])

    def why_wait(self, job: Job) -> str:
        """Where there is no memory for one more."""
        running = [Running(each.job.spec, each.process.pid, each.trains) for each in self._workers]
        self._memory.look(running)
        why = self._memory.why_not(job.spec, running)
        if "MB" in why and not self._little_memory:
            self._little_memory = f"fewer than {self.slots} runs at a time: {why}"
        return why

    def start(self, slot: int, job: Job) -> None:
        """Fork a worker. Raises StorageError where the system has no room for a process."""
        job = replace(job, device=self._devices.of_slot(slot))
        try:
            process = self._starter.start(work, job, give_up=self._give_up)
        except LostError as error:
            self._never_began.append((slot, Lost(str(error))))
            return
        except OSError as error:
            raise StorageError(f"cannot start a process: {error.strerror or error}") from error
        self._workers.append(_Worker(job, process, slot))
        if self._stopping:
            # Asked to stop between the start of the process and its entry in the list.
            process.terminate()

    def hear(self, seconds: float) -> Sequence[tuple[int, WorkerEvent | Lost]]:
        """Listen to every worker that has something to say."""
        ended: list[tuple[int, WorkerEvent | Lost]] = [*self._never_began]
        self._never_began.clear()
        if not self._workers:
            if not ended:
                time.sleep(seconds)
            return ended
        for reader in wait([worker.process.reader for worker in self._workers], timeout=0 if ended else seconds):
            worker = next(worker for worker in self._workers if worker.process.reader is reader)
            try:
                event: WorkerEvent = worker.process.reader.recv()
            except (EOFError, OSError):
                ended.append((worker.slot, self._end_of(worker)))
                continue
            if event.kind == "progress":
                worker.trains = True
                self._progress(worker.slot, event)
            else:
                worker.last = event
        return ended

    def _end_of(self, worker: _Worker) -> WorkerEvent | Lost:
        how = worker.process.join()
        self._workers.remove(worker)
        return worker.last or Lost(how)

    def stop(self) -> None:
        """SIGTERM to each."""
        self._stopping = True
        for worker in self._workers:
            worker.process.terminate()

    def close(self) -> None:
        """The workers have all ended; the server waits for the next plan."""


def _preload(jobs: Sequence[Job]) -> list[str]:
    """What the server from which the workers are forked imports once for all of them."""
    kinds = {problem_class(job.spec.problem.name) for job in jobs}
    modules = {module for kind in kinds for module in (kind.__module__, *kind.heavy_modules)}
    return [*PRELOADED, *sorted(module for module in modules if not module.startswith("own_"))]
