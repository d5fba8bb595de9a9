"""Runs as tasks of a Ray cluster, or of Ray on this machine: the only module that knows Ray.

Ray places runs, moves bytes and notices what dies. It tries nothing again: whether a run that was lost is tried again or is
a row of the tables is the dispatcher's to decide. What happens on a machine is in ``remote``.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.errors import UserError, one_line
from benchmarks.harness.executor import Cluster, Lost, Progress
from benchmarks.harness.interrupts import SIGNALS, StopSwitch
from benchmarks.harness.memory import cores
from benchmarks.harness.remote import Answer, Depot, Parcel, Returned, Seldom, Site, carry_out, kinds, look, tail
from benchmarks.harness.worker import Job, WorkerEvent
from benchmarks.records.presence import Presence
from benchmarks.records.schema import RunSpec

CONNECT_SECONDS = 10.0
"""How long a cluster's first machine may take to answer at all."""
ANSWER_SECONDS = 300.0
"""A machine that has not answered for so long after the start is taken to be unable to."""
JOINING_SECONDS = 0.5
"""How long to wait before a machine is asked again that the cluster does not know yet."""
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
        _connect(cluster.address)
        try:
            demands = [_demand(job) for job in jobs]
            rooms = _rooms(demands)
            site = Site.of(presence)
            in_place = _ask(list(rooms), site, kinds([job.spec for job in jobs]))
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
        task = _task(train, **_demand(job), max_calls=calls, scheduling_strategy="SPREAD")
        with _told_in_one_line():
            self._started[task.remote(parcel, self._count, self._ear)] = _Started(job, slot, self._count)

    def hear(self, seconds: float) -> Sequence[tuple[int, WorkerEvent | Lost]]:
        """Listen to the cluster."""
        ended, self._at_once = self._at_once, []
        if self._asked_to_stop and not self._cancelled:
            self._cancel()
        if not self._started:
            time.sleep(0 if ended else seconds)
            return ended
        with _told_in_one_line():
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
        if run.place is None or run.place.node not in {node["NodeID"] for node in _alive()}:
            return ""
        try:
            text: str = ray.get(_on(run.place.node, tail).remote(run.place.logs), timeout=TAIL_SECONDS)
        except exceptions.RayError:
            return ""
        return text

    def _refused_if_there_is_no_room(self) -> list[tuple[int, WorkerEvent | Lost]]:
        """Ray would wait for ever for a machine that has what a run needs."""
        now = time.monotonic()
        if any(_fits(node, demand) for node in _alive() for demand in self._needed):
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


# ---- the cluster -----------------------------------------------------------------------------------------------------


def _connect(address: str) -> None:
    """Join the cluster that was named, or begin one of this machine's own. Raises UserError."""
    # Said explicitly, since without an address Ray joins whatever cluster it finds.
    here = address == "local"
    if not here and address != "auto":
        _check_that_somebody_listens(address)
    own: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False} if here else {}
    # Ray would tell its makers of its use.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A Ray of our own trains at the priority of the command, as other executors do, not 15 below it.
    os.environ.setdefault("RAY_worker_niceness", "0")
    path = os.pathsep.join(dict.fromkeys(str(Path(folder).resolve()) for folder in sys.path))
    try:
        with _signals_kept():
            ray.init(
                address,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                logging_level="ERROR",
                log_to_driver=False,
                **own,
            )
    except Exception as error:
        # A start that takes too long is no more than an Exception.
        what = "Ray to start on this machine" if here else f"a Ray cluster at {address}"
        raise UserError(f"--executor ray: expected {what}, found none: {one_line(error)}") from error


def _check_that_somebody_listens(address: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address: expected a Ray cluster at {address}, found nobody there: {error}") from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets a handler of its own."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """What Ray raises when this machine's own part of it is gone."""
    try:
        yield
    except (exceptions.RayError, ConnectionError) as error:
        raise UserError(f"--executor ray: the cluster cannot be reached any more: {one_line(error)}") from error


def _task(function: Any, **options: Any) -> Any:
    """A function that is called elsewhere, once."""
    return ray.remote(max_retries=0, **options)(function)


def _on(node: str, function: Any) -> Any:
    """A function that is called on one machine, whatever is going on there."""
    return _task(function, num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def _new_ear() -> Any:
    node = ray.get_runtime_context().get_node_id()
    near = NodeAffinitySchedulingStrategy(node, soft=True)
    return ray.remote(_Ear).options(num_cpus=0, scheduling_strategy=near).remote()


def _alive() -> list[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _demand(job: Job) -> dict[str, float]:
    return {"num_cpus": job.spec.training.threads, "num_gpus": (job.spec.device == "cuda") / job.per_device}


def _runs_that_fit(node: Mapping[str, Any], demand: Mapping[str, float]) -> int:
    has = {"num_cpus": node["Resources"].get("CPU", 0), "num_gpus": node["Resources"].get("GPU", 0)}
    # A third of a GPU goes three times into one, whatever rounding says.
    return min(int(has[what] / number + 1e-9) for what, number in demand.items() if number)


def _fits(node: Mapping[str, Any], demand: Mapping[str, float]) -> bool:
    return _runs_that_fit(node, demand) > 0


def _rooms(demands: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """Machine -> how many runs it has room for, of those that need the most. Raises UserError where a run fits nowhere."""
    most = {what: max(demand[what] for demand in demands) for what in ("num_cpus", "num_gpus")}
    rooms = {node["NodeID"]: room for node in _alive() if (room := _runs_that_fit(node, most))}
    if rooms:
        return rooms
    has = [f"{node['Resources'].get('CPU', 0):g} and {node['Resources'].get('GPU', 0):g}" for node in _alive()]
    raise UserError(
        f"--executor ray: expected a machine with {most['num_cpus']} processors and {most['num_gpus']:g} GPUs, "
        f"found machines with {', '.join(has) or 'none'}"
    )


def _ask(nodes: Sequence[str], site: Site, specs: Sequence[RunSpec]) -> bool:
    """Whether all machines see the folder of results. Raises UserError where one cannot train what is planned."""
    end = time.monotonic() + ANSWER_SECONDS
    asked = {node: _on(node, look).remote(site, specs) for node in nodes}
    answers = []
    while asked:
        node, task = asked.popitem()
        try:
            answer: Answer = ray.get(task, timeout=max(0.0, end - time.monotonic()))
        except exceptions.GetTimeoutError as error:
            raise UserError(f"--executor ray: expected an answer of every machine in {ANSWER_SECONDS:g} s") from error
        except (exceptions.TaskUnschedulableError, exceptions.NodeDiedError):
            # It has just joined, and not all of the cluster knows of it; or it is gone, and is no machine any more.
            time.sleep(JOINING_SECONDS)
            if node in {each["NodeID"] for each in _alive()}:
                asked[node] = _on(node, look).remote(site, specs)
            continue
        except exceptions.RayError as error:
            raise UserError(_cannot_load(error)) from error
        if answer.wrong:
            raise UserError(f"--executor ray: {answer.machine}: {answer.wrong}")
        answers.append(answer.sees_folder)
    return all(answers)


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
    if _was_not_loaded(error):
        return WorkerEvent("refused", text=_cannot_load(error))
    if isinstance(error, exceptions.OutOfMemoryError):
        return Lost("Ray ended its process, since its machine ran out of memory", state="out_of_memory")
    if not isinstance(error, exceptions.WorkerCrashedError | exceptions.RayTaskError):
        return Lost("its machine was lost", again=True)
    said = "its process died" if isinstance(error, exceptions.WorkerCrashedError) else _last_line(error)
    end_of_log = log()
    return Lost(f"{said}; the end of its log: {end_of_log}" if end_of_log else said)


def _was_not_loaded(error: exceptions.RayError) -> bool:
    """Whether a function or what it is called with could not be unpacked on a machine: what a run raises is its row."""
    if isinstance(error, exceptions.RuntimeEnvSetupError):
        return True
    cause = getattr(error, "cause", None)
    return isinstance(cause, exceptions.RaySystemError) or "failed to import on the worker" in str(cause)


def _cannot_load(error: exceptions.RayError) -> str:
    return f"--executor ray: a machine cannot load what trains runs: {_last_line(error)}"


def _last_line(error: exceptions.RayError) -> str:
    """Where Ray quotes a traceback, that is the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
