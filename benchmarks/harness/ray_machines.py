"""The machines of a Ray cluster: how it is joined, what they have room for, and whether each can train what is planned."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.errors import UserError, one_line
from benchmarks.harness.interrupts import SIGNALS
from benchmarks.harness.memory import cores
from benchmarks.harness.remote import Answer, Site, look
from benchmarks.harness.worker import Job
from benchmarks.records.schema import RunSpec

CONNECT_SECONDS = 10.0
"""How long a cluster's first machine may take to answer at all."""
ANSWER_SECONDS = 300.0
"""A machine that has not answered for so long after the start is taken to be unable to."""
JOINING_SECONDS = 0.5
"""How long to wait before a machine is asked again that the cluster does not know yet."""


def connect(address: str) -> None:
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
def told_in_one_line() -> Iterator[None]:
    """What Ray raises when this machine's own part of it is gone."""
    try:
        yield
    except (exceptions.RayError, ConnectionError) as error:
        raise UserError(f"--executor ray: the cluster cannot be reached any more: {one_line(error)}") from error


def task_of(function: Any, **options: Any) -> Any:
    """A function that is called elsewhere, once."""
    return ray.remote(max_retries=0, **options)(function)


def on_machine(node: str, function: Any) -> Any:
    """A function that is called on one machine, whatever is going on there."""
    return task_of(function, num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def machines() -> list[Mapping[str, Any]]:
    """Those of the cluster that answer."""
    return [node for node in ray.nodes() if node["Alive"]]


def demand_of(job: Job) -> dict[str, float]:
    """What a machine must have free for a run."""
    return {"num_cpus": job.spec.training.threads, "num_gpus": (job.spec.device == "cuda") / job.per_device}


def _runs_that_fit(node: Mapping[str, Any], demand: Mapping[str, float]) -> int:
    has = {"num_cpus": node["Resources"].get("CPU", 0), "num_gpus": node["Resources"].get("GPU", 0)}
    # A third of a GPU goes three times into one, whatever rounding says.
    return min(int(has[what] / number + 1e-9) for what, number in demand.items() if number)


def fits(node: Mapping[str, Any], demand: Mapping[str, float]) -> bool:
    """Whether a machine with nothing to do could meet the demand."""
    return _runs_that_fit(node, demand) > 0


def rooms_for(demands: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """Machine -> how many runs it has room for, of those that need the most. Raises UserError where a run fits nowhere."""
    most = {what: max(demand[what] for demand in demands) for what in ("num_cpus", "num_gpus")}
    rooms = {node["NodeID"]: room for node in machines() if (room := _runs_that_fit(node, most))}
    if rooms:
        return rooms
    has = [f"{node['Resources'].get('CPU', 0):g} and {node['Resources'].get('GPU', 0):g}" for node in machines()]
    raise UserError(
        f"--executor ray: expected a machine with {most['num_cpus']} processors and {most['num_gpus']:g} GPUs, "
        f"found machines with {', '.join(has) or 'none'}"
    )


def ask_all(nodes: Sequence[str], site: Site, specs: Sequence[RunSpec]) -> bool:
    """Whether all machines see the folder of results. Raises UserError where one cannot train what is planned."""
    end = time.monotonic() + ANSWER_SECONDS
    asked = {node: on_machine(node, look).remote(site, specs) for node in nodes}
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
            if node in {each["NodeID"] for each in machines()}:
                asked[node] = on_machine(node, look).remote(site, specs)
            continue
        except exceptions.RayError as error:
            raise UserError(cannot_load(error)) from error
        if answer.wrong:
            raise UserError(f"--executor ray: {answer.machine}: {answer.wrong}")
        answers.append(answer.sees_folder)
    return all(answers)


def was_not_loaded(error: exceptions.RayError) -> bool:
    """Whether a function or what it is called with could not be unpacked on a machine: what a run raises is its row."""
    if isinstance(error, exceptions.RuntimeEnvSetupError):
        return True
    cause = getattr(error, "cause", None)
    return isinstance(cause, exceptions.RaySystemError) or "failed to import on the worker" in str(cause)


def cannot_load(error: exceptions.RayError) -> str:
    """What the user is told then."""
    return f"--executor ray: a machine cannot load what trains runs: {last_line(error)}"


def last_line(error: exceptions.RayError) -> str:
    """Where Ray quotes a traceback, that is the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
