"""Carries out a plan: which runs are still to do, processes side by side, progress, and a clean end on Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import filelock
import pandas as pd

from benchmarks.catalog import problem_class
from benchmarks.errors import StorageError
from benchmarks.harness import interrupts
from benchmarks.harness.display import display_for, run_name
from benchmarks.harness.memory import MemoryGate, Running, cores
from benchmarks.harness.nursery import LostError, Nursery, Process
from benchmarks.harness.worker import Job, Message, make_record, recorded_meanwhile, work
from benchmarks.planning.status import Recorded, take_stock
from benchmarks.records import provenance
from benchmarks.records.locks import is_free, lock_of
from benchmarks.records.schema import COLUMNS, RunSpec
from benchmarks.records.storage import DamagedRecordError, read_run, remove_leftovers, run_folder, set_aside, write_run

BUSY_SECONDS = 1.0
"""Wait before asking again for a run that another command is training."""


@dataclass
class Outcome:
    """What became of a plan."""

    recorded: list[Recorded] = field(default_factory=list)
    """Runs with a record, those of earlier commands included."""
    unfinished: int = 0
    """Runs without a record, after an interruption."""
    signal: int | None = None
    """Number of the signal that interrupted it."""
    warnings: list[str] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """Whether it was ended before all was done."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """Of the command that was interrupted."""
        return interrupts.exit_code(self.signal or 0)

    @property
    def failures(self) -> list[Recorded]:
        """Runs that did not finish."""
        return [run for run in self.recorded if run.state != "finished"]


def runs_at_once(runs: Sequence[RunSpec]) -> int:
    """As many as have a core for each of their threads, one at least."""
    return max(1, cores() // max((run.training.threads for run in runs), default=1))


def carry_out(folder: Path, suite: str, runs: list[RunSpec], *, jobs: int, device: str) -> Outcome:
    """Train every run that has no record yet. Raises StorageError where results cannot be written."""
    remove_leftovers(folder)
    stock = take_stock(folder, runs)
    outcome = Outcome(recorded=stock.recorded)
    try:
        for key in stock.damaged:
            outcome.warnings += _set_damaged_aside(folder, key)
    except OSError as error:
        raise StorageError.of(error, folder) from error
    work_list = [
        Job(spec, suite, folder, device, stock.replaced.get(key), stock.pairs.get(key, ""))
        for key, spec in stock.to_do.items()
    ]
    if work_list:
        _Pool(work_list, jobs, outcome, total=len(runs)).run()
    return outcome


def _set_damaged_aside(folder: Path, key: str) -> list[str]:
    """Move a damaged run out of the way, unless another command has it in hand. Returns the warning."""
    place = run_folder(folder, key)
    try:
        with lock_of(folder, key):
            try:
                read_run(place)
            except DamagedRecordError as error:
                return [f"set aside as {set_aside(place, str(error))}, trained again: {error}"] if place.exists() else []
    except (filelock.Timeout, FileNotFoundError):
        # Another command has it in hand, or has set it aside.
        pass
    return []


@dataclass
class _Worker:
    job: Job
    process: Process
    slot: int
    message: Message | None = None
    trains: bool = False
    """Whether it has told of its first steps."""


def _how_it_ended(message: Message | None) -> str:
    """The state of its record, or what it told instead of one."""
    if message is None:
        return "crashed"
    return message.state or "finished" if message.kind == "recorded" else message.kind


class _Pool:
    """At most ``jobs`` workers at a time."""

    def __init__(self, work_list: list[Job], jobs: int, outcome: Outcome, total: int) -> None:
        self.waiting = deque(work_list)
        self.outcome = outcome
        self.workers: list[_Worker] = []
        self.jobs = min(jobs, len(work_list))
        self.not_before = 0.0
        self.busy: dict[str, filelock.BaseFileLock] = {}
        """Key -> lock of a run that another command has in hand."""
        self.storage_error: StorageError | None = None
        self.memory, self.told_of_memory = MemoryGate(), False
        self.nursery = Nursery(_preload(work_list))
        self.display = display_for(total, len(outcome.recorded), self.jobs)

    def run(self) -> None:
        with contextlib.closing(self.display), interrupts.handled(self._interrupt):
            while self.workers or (self.waiting and not self._ending()):
                self._fill()
                self._listen()
                self.display.tick()
        self.outcome.unfinished = len(self.waiting)
        if self.nursery.restarts:
            self.outcome.warnings.append(self.nursery.said)
        if self.storage_error is not None:
            raise self.storage_error

    def _ending(self) -> bool:
        return self.outcome.interrupted or self.storage_error is not None

    def _interrupt(self, number: int, _: object) -> None:
        self.outcome.signal = number
        self._stop_workers()

    def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.process.terminate()

    def _fill(self) -> None:
        while self.waiting and len(self.workers) < self.jobs and not self._ending() and time.monotonic() >= self.not_before:
            if not self._to_one_that_is_free():
                self.not_before = time.monotonic() + BUSY_SECONDS
                return
            if not self._has_room(self.waiting[0].spec):
                return
            self._start(self.waiting.popleft())

    def _to_one_that_is_free(self) -> bool:
        """Turn the queue until a run is first that no other command has in hand, as far as is known."""
        for _ in range(len(self.waiting)):
            key = self.waiting[0].spec.key
            if key not in self.busy or is_free(self.busy[key]):
                self.busy.pop(key, None)
                return True
            self.waiting.rotate(-1)
        return False

    def _start(self, job: Job) -> None:
        slot = min(set(range(self.jobs)) - {worker.slot for worker in self.workers})
        try:
            process = self.nursery.start(work, job, give_up=self._ending)
        except LostError as error:
            self._give_up(job, str(error))
            return
        except OSError as error:
            self.waiting.appendleft(job)
            self._cannot_write(StorageError(f"cannot start a process: {error.strerror or error}"))
            return
        self.workers.append(_Worker(job, process, slot))
        self.display.begin(slot, job.spec)
        if self._ending():
            # Interrupted between the start of the process and its entry in the list.
            process.terminate()

    def _has_room(self, spec: RunSpec) -> bool:
        running = [Running(each.job.spec, each.process.pid, each.trains) for each in self.workers]
        self.memory.look(running)
        why_not = self.memory.why_not(spec, running)
        if "MB" in why_not and not self.told_of_memory:
            self.told_of_memory = True
            self.outcome.warnings.append(f"fewer than {self.jobs} runs at a time: {why_not}")
        return not why_not

    def _listen(self) -> None:
        """Hear every worker that has something to say, for half a second at most."""
        if not self.workers:
            time.sleep(min(0.5, max(0.0, self.not_before - time.monotonic())))
            return
        for ear in wait([worker.process.ear for worker in self.workers], timeout=0.5):
            worker = next(worker for worker in self.workers if worker.process.ear is ear)
            try:
                message = worker.process.ear.recv()
            except (EOFError, OSError):
                self._ended(worker)
                continue
            if message.kind == "progress":
                worker.trains = True
                self.display.advance(worker.slot, message.step, message.losses or {})
            else:
                worker.message = message

    def _ended(self, worker: _Worker) -> None:
        how = worker.process.join()
        self.workers.remove(worker)
        message = worker.message
        if message is None:
            self._give_up(worker.job, how)
        elif message.kind == "recorded":
            self.outcome.recorded.append(Recorded(worker.job.spec, message.state or "finished", message.text))
            self.outcome.warnings += [message.warning] if message.warning else []
        elif message.kind == "busy":
            self._leave_to_another(worker.job)
        elif message.kind == "stopped":
            self.waiting.appendleft(worker.job)
        else:
            self.waiting.appendleft(worker.job)
            self._cannot_write(StorageError(message.text))
        self.display.end(worker.slot, _how_it_ended(message))

    def _cannot_write(self, error: StorageError) -> None:
        self.storage_error = self.storage_error or error
        self._stop_workers()

    def _leave_to_another(self, job: Job) -> None:
        """Another command has the run in hand: what becomes of it is that command's to record."""
        self.waiting.append(job)
        try:
            self.busy[job.spec.key] = lock_of(job.folder, job.spec.key)
        except OSError as error:
            self._cannot_write(StorageError.of(error, job.folder))

    def _give_up(self, job: Job, reason: str) -> None:
        """A process ended without a word or never began: while ending that is a stop, otherwise a crash, and a row."""
        if self._ending():
            self.waiting.appendleft(job)
            return
        if job.pair_of:
            # It has a record, which stays; only the time of this training is missing.
            self.outcome.recorded.append(Recorded(job.spec, "finished"))
            self.outcome.warnings.append(f"{run_name(job.spec)}, trained again beside {job.pair_of}: {reason}")
            return
        record = make_record(job, "crashed", provenance.now(), None, reason=reason)
        try:
            with lock_of(job.folder, job.spec.key):
                # It may have ended after it had written its record.
                there = recorded_meanwhile(job)
                if there is None:
                    write_run(job.folder / "runs", record, pd.DataFrame(columns=list(COLUMNS)))
        except filelock.Timeout:
            self._leave_to_another(job)
        except OSError as error:
            self.waiting.appendleft(job)
            self._cannot_write(StorageError.of(error, job.folder))
        else:
            found = there or Message("recorded", state="crashed", text=reason)
            self.outcome.recorded.append(Recorded(job.spec, found.state or "finished", found.text))


PRELOADED = ("benchmarks.harness.worker", "benchmarks.harness.pool", "torch._dynamo")
"""What every worker needs. The first optimizer of a process imports torch._dynamo, which takes more than a second."""


def _preload(work_list: list[Job]) -> list[str]:
    """What the server from which the workers are forked imports once for all of them."""
    kinds = {problem_class(job.spec.problem.name) for job in work_list}
    modules = {module for kind in kinds for module in (kind.__module__, *kind.heavy_modules)}
    return [*PRELOADED, *sorted(module for module in modules if not module.startswith("own_"))]
