"""Commands in processes of their own, runs trained in this one, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from places import ROOT
from suites import OWN, plan_in

from benchmarks.harness.interrupts import SIGNALS
from benchmarks.harness.local import work
from benchmarks.harness.worker import Job
from benchmarks.planning.plan import Filters
from benchmarks.records.schema import DISTURBED, Run, RunSpec
from benchmarks.records.storage import read_run, run_folders

WAIT = 120.0
"""Seconds after which something that should happen is taken not to."""


def planned(suite: Path, *weighters: str) -> list[RunSpec]:
    return plan_in(suite, Filters(weighters=weighters or None)).runs


def command(suite: Path, *more: str, out: str = "out") -> list[str]:
    folder = suite.parent
    places = ["--out", str(folder / out), "--plots", str(folder / "plots")]
    return [sys.executable, str(ROOT / "run_bench.py"), str(suite), "--trust", "--jobs", "2", *places, *more]


def environment(folder: Path, sleep: float = 0.0) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TINY_SLEEP": str(sleep), "TINY_TRACE": str(folder / "trace.txt")}


def start(
    suite: Path, *words: str, out: str = "out", sleep: float = 0.0, more: dict[str, str] | None = None, **popen: Any
) -> subprocess.Popen[str]:
    """A command in a process group of its own. more: further environment."""
    return subprocess.Popen(
        command(suite, *words, out=out),
        env=environment(suite.parent, sleep) | (more or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **popen,
    )


def everywhere(folder: Path, code: str) -> dict[str, str]:
    """The environment of a command in which every process runs this code before anything else."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(textwrap.dedent(code), encoding="utf-8")
    return {"PYTHONPATH": str(folder / "site")}


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=2 * WAIT)
    return process.returncode, stdout, stderr


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """What a command said in the end, which on a busy machine may be late."""
    stdout, stderr = process.communicate(timeout=20 * WAIT)
    return process.returncode, stdout, stderr


def call(suite: Path, *more: str, out: str = "out", **popen: Any) -> tuple[int, str, str]:
    return finish(start(suite, *more, out=out, **popen))


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, f"expected {what}"
        time.sleep(0.02)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def servers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes from which the command's workers are forked; those of them that are alive."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if not gone([child]) and "forkserver" in " ".join(child.cmdline())]


def gone(processes: Sequence[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def runs_of(out: Path) -> dict[str, Run]:
    return {place.name: read_run(place) for place in run_folders(out / "mine")}


def checkpoints(out: Path) -> list[Path]:
    return list((out / "mine" / "unfinished").glob("*.pt"))


def numbers(run: Run) -> dict[str, Any]:
    """All of a record but what depends on the clock and the machine."""
    kept = run.record.model_dump(
        exclude={"costs", "timings", "started", "ended", "resumed", "commit", "machine", "trajectory_sha256"}
    )
    kept["flags"] = [flag for flag in run.record.flags if flag.name != DISTURBED]
    assert run.record.costs is not None
    return {**kept, "extra": (run.record.costs.extra_forwards, run.record.costs.extra_backwards)}


def assert_same_numbers(some: dict[str, Run], others: dict[str, Run]) -> None:
    assert some.keys() == others.keys()
    for key, run in some.items():
        pd.testing.assert_frame_equal(run.trajectory, others[key].trajectory, check_exact=True)
        assert numbers(run) == numbers(others[key])


LONG = {"steps": 150, "log_every": 4, "evaluate_every": 9}
LEARNERS = ["gradnorm", {"name": "coba", "warmup": 5, "window": 10}]
ONLY = ("--weighters", "gradnorm,coba")


class Ear:
    """Stands for the pipe to the parent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)


def jobs_of(suite: Path, *weighters: str, replaces: str | None = None) -> list[Job]:
    folder = suite.parent / "out" / "mine"
    return [Job(spec, "mine", folder, "cpu", replaces) for spec in planned(suite, *weighters)]


def in_process(job: Job) -> Any:
    """The last message of a worker that runs here."""
    ear = Ear()
    work(job, ear)  # type: ignore[arg-type]
    return ear.messages[-1]


def own(name: str, **hyperparameters: Any) -> dict[str, Any]:
    return {"name": f"{OWN}:{name}", **hyperparameters}


def traced(suite: Path) -> list[str]:
    return (suite.parent / "trace.txt").read_text(encoding="utf-8").splitlines()


def default_signals() -> None:
    """As a shell starts a command, whatever this process ignores."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
