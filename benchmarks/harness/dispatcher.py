"""Carries out a plan: which runs are still to do, which comes next, progress, and a clean end on Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import pandas as pd

from benchmarks.errors import StorageError, UserError
from benchmarks.harness import interrupts
from benchmarks.harness.devices import Devices
from benchmarks.harness.display import display_for, run_name
from benchmarks.harness.executor import Cluster, Executor, ExecutorName, Lost
from benchmarks.harness.here import HereExecutor
from benchmarks.harness.local import LocalExecutor
from benchmarks.harness.memory import cores
from benchmarks.harness.pairs import Pairs
from benchmarks.harness.worker import Job, WorkerEvent, make_record, recorded_meanwhile
from benchmarks.planning.status import Recorded, plan_status
from benchmarks.records import provenance
from benchmarks.records.locks import is_free, lock_of
from benchmarks.records.packed import Packed
from benchmarks.records.presence import Presence
from benchmarks.records.reading import read_one
from benchmarks.records.schema import COLUMNS, RunSpec, State
from benchmarks.records.storage import DamagedRecordError, remove_leftovers, run_folder, set_aside, write_run

if TYPE_CHECKING:
    from benchmarks.harness.ray_executor import RayExecutor

BUSY_SECONDS = 1.0
"""Wait before asking again for a run that another command is training."""
TIMED = "timed"
"""How a run ended that the plan does not count."""
LOST_TIMES = 3
"""How often a run is tried again that was lost through no doing of its own."""


@dataclass
class PlanResult:
    """What became of a plan."""

    recorded: list[Recorded] = field(default_factory=list)
    """Runs with a record, those of earlier commands included."""
    unfinished: int = 0
    """Runs without a record: after an interruption, or left in the hands of other commands."""
    signal: int | None = None
    """Number of the signal that interrupted it."""
    warnings: list[str] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """Whether it was ended before all was done."""
        return self.signal is not None

    @property
    def complete(self) -> bool:
        """Whether every run has a record and nothing interrupted it."""
        return not self.interrupted and not self.unfinished

    @property
    def exit_code(self) -> int:
        """Of a command that ends with it: 0 unless it was interrupted."""
        return 0 if self.signal is None else interrupts.exit_code(self.signal)

    @property
    def failures(self) -> list[Recorded]:
        """Runs that did not finish."""
        return [run for run in self.recorded if run.state != "finished"]


def runs_at_once(runs: Sequence[RunSpec]) -> int:
    """As many as have a core for each of their threads, one at least."""
    return max(1, cores() // max((run.training.threads for run in runs), default=1))


def execute(
    folder: Path,
    suite: str,
    runs: list[RunSpec],
    *,
    jobs: int | None,
    devices: Devices,
    executor: ExecutorName = "local",
    cluster: Cluster = Cluster(),  # noqa: B008 - it cannot be changed
    wait: bool = True,
) -> PlanResult:
    """Train every run that has no record yet.

    jobs     runs at the same time; None: as many as there is room for
    devices  of this machine that train; of a cluster, their kind, and how many runs share one
    cluster  where an executor finds other machines
    wait     whether to wait for runs that other commands have in hand when nothing else is left

    Raises StorageError where results cannot be written, UserError where no run can be trained as the executor is set up.
    """
    remove_leftovers(folder)
    status = plan_status(folder, runs)
    result = PlanResult(recorded=status.recorded)
    try:
        for key in status.damaged:
            result.warnings += _set_damaged_aside(folder, key)
    except OSError as error:
        raise StorageError.of(error, folder) from error
    commit = provenance.commit()
    own_process = executor == "local" or (executor == "ray" and cluster.new_processes)
    to_do = [
        Job(
            spec,
            suite,
            folder,
            devices.names[0],
            status.replaced.get(key),
            status.pairs.get(key, ""),
            commit,
            executor,
            own_process,
            devices.per_device,
        )
        for key, spec in status.to_do.items()
    ]
    if to_do:
        # What is timed on another machine than its pair says nothing.
        pairs = Pairs(() if executor == "ray" else runs)
        dispatcher = _Dispatcher(to_do, result, len(runs), pairs, wait=wait)
        with contextlib.closing(Presence(folder)) as presence:
            presence.check_others()
            dispatcher.run(_make_executor(executor, to_do, presence, jobs, devices, cluster, dispatcher))
    return result


def _make_executor(
    name: ExecutorName,
    to_do: list[Job],
    presence: Presence,
    jobs: int | None,
    devices: Devices,
    cluster: Cluster,
    dispatcher: _Dispatcher,
) -> Executor:
    if name == "here":
        return HereExecutor(dispatcher.progress)
    if name == "ray":
        return _ray_executor()(to_do, presence, jobs, cluster, dispatcher.progress)
    jobs = jobs or devices.slots or runs_at_once([job.spec for job in to_do])
    return LocalExecutor(to_do, min(jobs, len(to_do)), devices, dispatcher.progress, dispatcher.ending)


def _ray_executor() -> type[RayExecutor]:
    try:
        # Imported on use: Ray is an extra, and heavy.
        from benchmarks.harness.ray_executor import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("--executor ray: expected Ray, not found: pip install 'mtl-weighting[ray]'") from error
    return RayExecutor


def _set_damaged_aside(folder: Path, key: str) -> list[str]:
    """Move a damaged run out of the way, unless another command has it in hand. Returns the warning."""
    place = run_folder(folder, key)
    try:
        with lock_of(folder, key):
            try:
                read_one(folder, key)
            except DamagedRecordError as error:
                if place.exists():
                    return [f"set aside as {set_aside(place, str(error))}, trained again: {error}"]
                return [f"trained again: {error}"] if key in Packed(folder).known else []
    except (filelock.Timeout, FileNotFoundError):
        # Another command has it in hand, or has set it aside.
        pass
    return []


class _Dispatcher:
    """Gives an executor the runs of a plan, one for each free slot.

    pairs  which runs are timed again on the way
    wait   whether to wait for runs that other commands have in hand when nothing else is left
    """

    def __init__(self, jobs: list[Job], result: PlanResult, total: int, pairs: Pairs, *, wait: bool) -> None:
        self.waiting = deque(jobs)
        self.result = result
        self.pairs, self.wait = pairs, wait
        self.running: dict[int, Job] = {}
        """Slot -> what is trained there."""
        self.in_hand = {job.spec.key for job in jobs}
        """Of the plan, what is trained or will be. To make a key takes too long to make all of them at every start."""
        self.not_before = 0.0
        self.busy: dict[str, filelock.BaseFileLock] = {}
        """Key -> lock of a run that another command has in hand."""
        self.lost: Counter[str] = Counter()
        """Key -> how often the run was lost through no doing of its own."""
        self.error: StorageError | UserError | None = None
        """Why the command ends before all is done."""
        self.total = total

    def run(self, executor: Executor) -> None:
        """Until nothing is left, or all is stopped."""
        self.executor = executor
        self.display = display_for(self.total, len(self.result.recorded), executor.slots)
        with contextlib.closing(executor), contextlib.closing(self.display), interrupts.handled(self._interrupt):
            while self.running or (self.waiting and not self.ending() and not self._left_to_others()):
                self._fill()
                for slot, end in executor.hear(0.5 if self.running else self._pause()):
                    self._ended(slot, end)
                self.display.tick()
        self.result.unfinished = len(self.waiting)
        self.result.warnings += executor.warnings
        if self.error is not None:
            raise self.error

    def ending(self) -> bool:
        """Whether no further run is to begin."""
        return self.result.interrupted or self.error is not None

    def progress(self, slot: int, event: WorkerEvent) -> None:
        """Show how far a run is."""
        self.display.advance(slot, event.step, event.losses or {})

    def _interrupt(self, number: int, _: object) -> None:
        self.result.signal = number
        self.executor.stop()

    def _pause(self) -> float:
        """Seconds until runs in other hands are looked at again, half a second at most."""
        return min(0.5, max(0.0, self.not_before - time.monotonic()))

    def _left_to_others(self) -> bool:
        """Whether all that is left is in the hands of other commands, and nobody waits for it."""
        return not self.wait and not any(self._is_free(job) for job in self.waiting)

    def _is_free(self, job: Job) -> bool:
        """Whether no other command has a run in hand, as far as is known."""
        key = job.spec.key
        if key in self.busy and not is_free(self.busy[key]):
            return False
        self.busy.pop(key, None)
        return True

    def _fill(self) -> None:
        free = sorted(set(range(self.executor.slots)) - set(self.running))
        for slot in free:
            if not self.waiting or self.ending() or time.monotonic() < self.not_before:
                return
            if not self._to_one_that_is_free():
                self.not_before = time.monotonic() + BUSY_SECONDS
                return
            if self.executor.why_wait(self.waiting[0]):
                return
            self._start(slot, self.pairs.lacking(self.waiting[0], self.in_hand) or self.waiting.popleft())

    def _to_one_that_is_free(self) -> bool:
        """Turn the queue until a run is first that no other command has in hand."""
        for _ in range(len(self.waiting)):
            if self._is_free(self.waiting[0]):
                return True
            self.waiting.rotate(-1)
        return False

    def _start(self, slot: int, job: Job) -> None:
        try:
            self.executor.start(slot, job)
        except StorageError as error:
            self._put_back(job)
            self._end_with(error)
            return
        self.running[slot] = job
        self.display.begin(slot, job.spec)

    def _put_back(self, job: Job) -> None:
        """It is to be trained yet, unless it was there for the time of others alone."""
        if job.planned:
            self.waiting.appendleft(job)

    def _ended(self, slot: int, end: WorkerEvent | Lost) -> None:
        job = self.running.pop(slot)
        if isinstance(end, Lost):
            self._lost(job, end)
        elif end.kind == "recorded":
            self._recorded(job, end)
        elif end.kind == "busy":
            self._leave_to_another(job)
        elif end.kind == "stopped":
            self._put_back(job)
        else:
            self._put_back(job)
            self._end_with(UserError(end.text) if end.kind == "refused" else StorageError(end.text))
        self.display.end(slot, _how_it_ended(end) if job.planned else TIMED)

    def _recorded(self, job: Job, end: WorkerEvent) -> None:
        if job.planned:
            self.in_hand.discard(job.spec.key)
            self.result.recorded.append(Recorded(job.spec, end.state or "finished", end.text))
        self.result.warnings += [end.warning] if end.warning else []

    def _end_with(self, error: StorageError | UserError) -> None:
        self.error = self.error or error
        self.executor.stop()

    def _leave_to_another(self, job: Job) -> None:
        """Another command has the run in hand: what becomes of it is that command's to record."""
        if not job.planned:
            return
        self.waiting.append(job)
        try:
            self.busy[job.spec.key] = lock_of(job.folder, job.spec.key)
        except OSError as error:
            self._end_with(StorageError.of(error, job.folder))

    def _lost(self, job: Job, end: Lost) -> None:
        """A run was lost: while ending that is a stop; otherwise it is tried again, or is a row."""
        key = job.spec.key
        if self.ending():
            self._put_back(job)
        elif end.again and job.planned and self.lost[key] < LOST_TIMES:
            self.lost[key] += 1
            self.result.warnings.append(f"{run_name(job.spec)}: {end.reason}; tried again")
            self.waiting.append(job)
        elif self.lost[key]:
            self._give_up(job, end.state, f"{end.reason}; it was lost {self.lost[key] + 1} times")
        else:
            self._give_up(job, end.state, end.reason)

    def _give_up(self, job: Job, state: State, reason: str) -> None:
        if job.pair_of:
            # It has a record, which stays; only the time of this training is missing.
            warning = f"{run_name(job.spec)}, trained again beside {job.pair_of}: {reason}"
            self._recorded(job, WorkerEvent("recorded", state="finished", warning=warning))
            return
        record = make_record(job, state, provenance.now(), None, reason=reason)
        try:
            with lock_of(job.folder, job.spec.key):
                # It may have ended after it had written its record.
                there = recorded_meanwhile(job)
                if there is None:
                    write_run(job.folder / "runs", record, pd.DataFrame(columns=list(COLUMNS)))
        except filelock.Timeout:
            self._leave_to_another(job)
        except OSError as error:
            self._put_back(job)
            self._end_with(StorageError.of(error, job.folder))
        else:
            self._recorded(job, there or WorkerEvent("recorded", state=state, text=reason))


def _how_it_ended(end: WorkerEvent | Lost) -> str:
    """The state of its record, or what was sent instead of one."""
    if isinstance(end, Lost):
        return "lost" if end.again else end.state
    return end.state or "finished" if end.kind == "recorded" else end.kind
