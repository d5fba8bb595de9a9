"""Runs as tasks of a Ray cluster, or of Ray on this machine.

Ray places runs, moves bytes and notices what dies. It tries nothing again: whether a run that was lost is tried again or is
a row of the tables is the dispatcher's to decide. The cluster itself is in ``ray_machines``, the only other module that
knows Ray; what happens on a machine is in ``remote``.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.harness.executor import Cluster, Lost, Progress
from benchmarks.harness.interrupts import StopSwitch
from benchmarks.harness.ray_machines import (
    ask_all,
    cannot_load,
    connect,
    demand_of,
    fits,
    last_line,
    machines,
    on_machine,
    rooms_for,
    task_of,
    told_in_one_line,
    was_not_loaded,
)
from benchmarks.harness.remote import Depot, Parcel, Returned, Seldom, Site, carry_out, kinds, tail
from benchmarks.harness.worker import Job, WorkerEvent
from benchmarks.records.presence import Presence

NO_ROOM_SECONDS = 60.0
"""How long the command goes on while no machine is left on which a run could be trained."""
TAIL_SECONDS = 20.0
"""How long to wait for the log of a run that was lost."""


@dataclass(frozen=True)
class _Place:
    """Where a run is being trained."""

    node: str
    logs: tuple[str, ...]


@dataclass
class _Started:
    """A run that was given to Ray."""

    job: Job
    slot: int
    number: int
    """Tells it from other runs in the slot."""
    place: _Place | None = None
    """None: Ray has not begun it, as far as is known."""


class _Ear:
    """An actor beside this process: the last that each run has said. What is lost with it is only progress."""

    def __init__(self) -> None:
        self._heard: list[tuple[int, _Place | WorkerEvent]] = []

    def say(self, number: int, what: _Place | WorkerEvent) -> None:
        self._heard.append((number, what))

    def take(self) -> list[tuple[int, _Place | WorkerEvent]]:
        heard, self._heard = self._heard, []
        return heard


def train(parcel: Parcel, number: int, ear: Any) -> Returned:
    """On a machine of the cluster. ear: told where the run is, then how far."""
    asked_to_stop = StopSwitch()
    # A cancelled task is interrupted as by Ctrl-C.
    before = signal.signal(signal.SIGINT, asked_to_stop.switch)
    try:
        ear.say.remote(number, _Place(ray.get_runtime_context().get_node_id(), _own_logs()))
        return carry_out(parcel, Seldom(lambda event: ear.say.remote(number, event)), asked_to_stop)
    finally:
        # The next run of the process may be cancelled before it begins.
        signal.signal(signal.SIGINT, before)


def _own_logs() -> tuple[str, ...]:
    """The files that this process's output goes to."""
    found = []
    for stream in (1, 2):
        with suppress(OSError):
            found.append(str(Path(f"/proc/self/fd/{stream}").readlink()))
    return tuple(found)


class RayExecutor:
    """One task for each run, each on a machine with a processor for every thread and, on CUDA, a GPU of its own.

    jobs      all that may be started
    presence  of this command in the suite's folder
    slots     runs at the same time; None: as many as there is room for at the start

    Raises UserError where there is no such cluster, and where a run cannot be trained on each of its machines that has room.
    """

    def __init__(
        self, jobs: Sequence[Job], presence: Presence, slots: int | None, cluster: Cluster, progress: Progress
    ) -> None:
        self._progress, self._cluster = progress, cluster
        self._started: dict[Any, _Started] = {}
        self._at_once: list[tuple[int, WorkerEvent | Lost]] = []
        self._count, self._asked_to_stop, self._cancelled = 0, False, False
        self._room_seen = time.monotonic()
        self._heard: Any = None
        connect(cluster.address)
        try:
            demands = [demand_of(job) for job in jobs]
            rooms = rooms_for(demands)
            site = Site.of(presence)
            in_place = ask_all(list(rooms), site, kinds([job.spec for job in jobs]))
            self._depot = Depot(site, in_place=in_place)
            self.slots = min(len(jobs), slots or sum(rooms.values()))
            self._needed = demands
            self._ear = _new_ear()
            print(_said(len(rooms), sum(rooms.values()), site, in_place=in_place), flush=True)
        except BaseException:
            self.close()
            raise

    @property
    def warnings(self) -> Sequence[str]:
        """None: what the user has to know is said at the start."""
        return ()

    def why_wait(self, job: Job) -> str:
        """Ray itself waits until there is room."""
        return ""

    def start(self, slot: int, job: Job) -> None:
        """Give the run to Ray, unless another command has it in hand."""
        job = replace(job, executor=f"ray {ray.__version__}")
        parcel = self._depot.pack(job)
        if isinstance(parcel, WorkerEvent):
            self._at_once.append((slot, parcel))
            return
        self._count += 1
        calls = 1 if self._cluster.new_processes else 0
        task = task_of(train, **demand_of(job), max_calls=calls, scheduling_strategy="SPREAD")
        with told_in_one_line():
            self._started[task.remote(parcel, self._count, self._ear)] = _Started(job, slot, self._count)

    def hear(self, seconds: float) -> Sequence[tuple[int, WorkerEvent | Lost]]:
        """Listen to the cluster."""
        ended, self._at_once = self._at_once, []
        if self._asked_to_stop and not self._cancelled:
            self._cancel()
        if not self._started:
            time.sleep(0 if ended else seconds)
            return ended
        with told_in_one_line():
            done, _ = ray.wait(list(self._started), num_returns=1, timeout=0 if ended else seconds)
            self._listen()
            for task in done:
                run = self._started.pop(task)
                ended.append((run.slot, self._end_of(task, run)))
            return ended if ended else self._refused_if_there_is_no_room()

    def stop(self) -> None:
        """When it is listened to next, since this may be called by a signal in the middle of a call to Ray."""
        self._asked_to_stop = True

    def close(self) -> None:
        """Leave the cluster; what still runs there on our behalf ends."""
        for run in self._started.values():
            self._depot.drop(run.job)
        ray.shutdown()

    def _cancel(self) -> None:
        self._cancelled = True
        for task in self._started:
            ray.cancel(task, force=False)

    def _listen(self) -> None:
        """Hear how far the runs are, without waiting for it."""
        if self._heard is None:
            self._heard = self._ear.take.remote()
        ready, _ = ray.wait([self._heard], timeout=0)
        if not ready:
            return
        try:
            told: list[tuple[int, _Place | WorkerEvent]] = ray.get(self._heard)
        except exceptions.RayError:
            self._ear, told = _new_ear(), []
        self._heard = None
        runs = {run.number: run for run in self._started.values()}
        for number, what in told:
            if number not in runs:
                continue
            if isinstance(what, _Place):
                runs[number].place = what
            else:
                self._progress(runs[number].slot, what)

    def _end_of(self, task: Any, run: _Started) -> WorkerEvent | Lost:
        try:
            returned: Returned = ray.get(task)
        except exceptions.RayError as error:
            self._depot.drop(run.job)
            return _why_lost(error, lambda: self._tail_of(run))
        return self._depot.take_in(run.job, returned)

    def _tail_of(self, run: _Started) -> str:
        """The last words of a run; empty where its machine is gone, too, or where it said none."""
        if run.place is None or run.place.node not in {node["NodeID"] for node in machines()}:
            return ""
        try:
            text: str = ray.get(on_machine(run.place.node, tail).remote(run.place.logs), timeout=TAIL_SECONDS)
        except exceptions.RayError:
            return ""
        return text

    def _refused_if_there_is_no_room(self) -> list[tuple[int, WorkerEvent | Lost]]:
        """Ray would wait for ever for a machine that has what a run needs."""
        now = time.monotonic()
        if any(fits(node, demand) for node in machines() for demand in self._needed):
            self._room_seen = now
        if now - self._room_seen < NO_ROOM_SECONDS:
            return []
        text = "--executor ray: expected a machine on which a run can be trained, found that all of them are gone"
        ended: list[tuple[int, WorkerEvent | Lost]] = []
        for task, run in self._started.items():
            ray.cancel(task, force=True)
            self._depot.drop(run.job)
            ended.append((run.slot, WorkerEvent("refused", text=text)))
        self._started.clear()
        return ended


def _new_ear() -> Any:
    node = ray.get_runtime_context().get_node_id()
    near = NodeAffinitySchedulingStrategy(node, soft=True)
    return ray.remote(_Ear).options(num_cpus=0, scheduling_strategy=near).remote()


def _said(machines: int, room: int, site: Site, *, in_place: bool) -> str:
    there = f"ray: {machines} machine{'s' * (machines != 1)} with room for {room} run{'s' * (room != 1)}"
    if in_place:
        return f"{there}, which write records and checkpoints in place"
    return (
        f"{there}, not all of which see {site.folder}: records come back by Ray, and a run whose machine is lost begins anew"
    )


def _why_lost(error: exceptions.RayError, log: Callable[[], str]) -> WorkerEvent | Lost:
    """What became of a run that has not returned. log: called for the end of what it has said, where that may say why."""
    if isinstance(error, exceptions.TaskCancelledError):
        return WorkerEvent("stopped")
    if was_not_loaded(error):
        return WorkerEvent("refused", text=cannot_load(error))
    if isinstance(error, exceptions.OutOfMemoryError):
        return Lost("Ray ended its process, since its machine ran out of memory", state="out_of_memory")
    if not isinstance(error, exceptions.WorkerCrashedError | exceptions.RayTaskError):
        return Lost("its machine was lost", again=True)
    said = "its process died" if isinstance(error, exceptions.WorkerCrashedError) else last_line(error)
    end_of_log = log()
    return Lost(f"{said}; the end of its log: {end_of_log}" if end_of_log else said)
