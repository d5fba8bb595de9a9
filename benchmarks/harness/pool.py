"""Carries out a plan: which runs are still to do, processes side by side, progress, and a clean end on Ctrl-C."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import filelock
import pandas as pd

from benchmarks.catalog import problem_class
from benchmarks.errors import StorageError
from benchmarks.harness import provenance
from benchmarks.harness.display import display_for
from benchmarks.harness.memory import MemoryGate, Running
from benchmarks.harness.worker import Job, Message, cores, lock_of, make_record, remove_leftovers, run_folder, work
from benchmarks.record import COLUMNS, DamagedRecordError, RunSpec, State, read_run, set_aside, write_run

BUSY_SECONDS = 1.0
"""Wait before asking again for a run that another command is training."""

KEPT_STATES: tuple[State, ...] = ("finished", "diverged")
"""States that a repeated command does not train again: the same run would end the same way."""


@dataclass(frozen=True)
class Recorded:
    """How a run stands."""

    spec: RunSpec
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Stock:
    """How a plan stands before anything is trained."""

    recorded: list[Recorded]
    to_do: dict[str, RunSpec]
    """By key."""
    replaced: dict[str, str]
    """Key -> when the failed run that is to be trained again was started."""
    damaged: dict[str, str]
    """Key -> what is wrong with a record that cannot be used."""


@dataclass
class Outcome:
    """What became of a plan."""

    recorded: list[Recorded] = field(default_factory=list)
    """Runs with a record, those of earlier commands included."""
    unfinished: int = 0
    """Runs without a record, after an interruption."""
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[Recorded]:
        """Runs that did not finish."""
        return [run for run in self.recorded if run.state != "finished"]


def take_stock(folder: Path, runs: list[RunSpec]) -> Stock:
    """Which of the planned runs have a record that counts and which are to do. Changes nothing."""
    stock = Stock([], {}, {}, {})
    for spec in runs:
        place = run_folder(folder, spec.key)
        stock.to_do[spec.key] = spec
        if not place.exists():
            continue
        try:
            record = read_run(place).record
        except DamagedRecordError as error:
            stock.damaged[spec.key] = str(error)
            continue
        if record.state in KEPT_STATES:
            stock.recorded.append(Recorded(spec, record.state, record.reason or ""))
            del stock.to_do[spec.key]
        else:
            stock.replaced[spec.key] = record.started
    return stock


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
    work_list = [Job(spec, suite, folder, device, stock.replaced.get(key)) for key, spec in stock.to_do.items()]
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
    except filelock.Timeout:
        pass
    return []


@dataclass
class _Worker:
    job: Job
    process: BaseProcess
    ear: Connection
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
        self.interrupted = False
        self.storage_error: StorageError | None = None
        self.memory, self.told_of_memory = MemoryGate(), False
        self.context = _context(_preload(work_list))
        self.display = display_for(total, len(outcome.recorded), self.jobs)

    def run(self) -> None:
        with contextlib.closing(self.display), _on_interrupt(self._interrupt):
            while self.workers or (self.waiting and not self._ending()):
                self._fill()
                self._listen()
                self.display.tick()
        self.outcome.interrupted = self.interrupted
        self.outcome.unfinished = len(self.waiting)
        if self.storage_error is not None:
            raise self.storage_error

    def _ending(self) -> bool:
        return self.interrupted or self.storage_error is not None

    def _interrupt(self) -> None:
        self.interrupted = True
        self._stop_workers()

    def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.process.terminate()

    def _fill(self) -> None:
        while self.waiting and len(self.workers) < self.jobs and not self._ending() and time.monotonic() >= self.not_before:
            if not self._has_room(self.waiting[0].spec):
                return
            job = self.waiting.popleft()
            slot = min(set(range(self.jobs)) - {worker.slot for worker in self.workers})
            ear, mouth = self.context.Pipe(duplex=False)
            process = self.context.Process(target=work, args=(job, mouth), daemon=True)
            process.start()
            mouth.close()
            self.workers.append(_Worker(job, process, ear, slot))
            self.display.begin(slot, job.spec)
            if self._ending():
                # Interrupted between the start of the process and its entry in the list.
                process.terminate()

    def _has_room(self, spec: RunSpec) -> bool:
        running = [Running(each.job.spec, each.process.pid or 0, each.trains) for each in self.workers]
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
        for ear in wait([worker.ear for worker in self.workers], timeout=0.5):
            worker = next(worker for worker in self.workers if worker.ear is ear)
            try:
                message = worker.ear.recv()
            except (EOFError, OSError):
                self._ended(worker)
                continue
            if message.kind == "progress":
                worker.trains = True
                self.display.advance(worker.slot, message.step, message.losses or {})
            else:
                worker.message = message

    def _ended(self, worker: _Worker) -> None:
        worker.process.join()
        worker.ear.close()
        self.workers.remove(worker)
        message = worker.message
        if message is None:
            self._died(worker)
        elif message.kind == "recorded":
            self.outcome.recorded.append(Recorded(worker.job.spec, message.state or "finished", message.text))
        elif message.kind == "busy":
            self.waiting.append(worker.job)
            self.not_before = time.monotonic() + BUSY_SECONDS
        elif message.kind == "stopped":
            self.waiting.appendleft(worker.job)
        else:
            self.waiting.appendleft(worker.job)
            self._cannot_write(StorageError(message.text))
        self.display.end(worker.slot, _how_it_ended(message))

    def _cannot_write(self, error: StorageError) -> None:
        self.storage_error = self.storage_error or error
        self._stop_workers()

    def _died(self, worker: _Worker) -> None:
        """A worker ended without a word: while ending that is a stop, otherwise a crash, and a row."""
        if self._ending():
            self.waiting.appendleft(worker.job)
            return
        code = worker.process.exitcode
        reason = f"its process ended with exit code {code}"
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            reason = f"its process was ended by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
        record = make_record(worker.job, "crashed", provenance.now(), None, reason=reason)
        try:
            with lock_of(worker.job.folder, worker.job.spec.key):
                write_run(worker.job.folder / "runs", record, pd.DataFrame(columns=list(COLUMNS)))
        except filelock.Timeout:
            # Another command took the run up at once: what becomes of it is that command's to record.
            self.waiting.append(worker.job)
        except OSError as error:
            self.waiting.appendleft(worker.job)
            self._cannot_write(StorageError.of(error, worker.job.folder))
        else:
            self.outcome.recorded.append(Recorded(worker.job.spec, "crashed", reason))


PRELOADED = ("benchmarks.harness.worker", "benchmarks.harness.pool", "torch._dynamo")
"""What every worker needs. The first optimizer of a process imports torch._dynamo, which takes more than a second."""


def _preload(work_list: list[Job]) -> list[str]:
    """What the server from which the workers are forked imports once for all of them."""
    kinds = {problem_class(job.spec.problem.name) for job in work_list}
    modules = {module for kind in kinds for module in (kind.__module__, *kind.heavy_modules)}
    return [*PRELOADED, *sorted(module for module in modules if not module.startswith("own_"))]


def _context(preload: list[str]) -> SpawnContext | ForkServerContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    with _inherited_by_the_server():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _inherited_by_the_server() -> Iterator[None]:
    """What the server and so every worker should be born with.

    Ctrl-C ignored, so that it cannot hit a worker before that has set its own handlers; and this process's search path,
    without which the preloading silently does nothing where the command is called from another folder.
    """
    handler, path = signal.signal(signal.SIGINT, signal.SIG_IGN), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


@contextlib.contextmanager
def _on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on Ctrl-C or SIGTERM instead of raising; a second Ctrl-C raises KeyboardInterrupt."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
