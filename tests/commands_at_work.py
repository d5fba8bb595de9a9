"""Commands in processes of their own, runs trained in this one, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from places import ROOT
from suites import as_yaml

from benchmarks.harness.local import work
from benchmarks.harness.worker import Job
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.records.schema import DISTURBED, Run, RunSpec
from benchmarks.records.storage import (
    read_run,
    run_folders,
)

OWN = ROOT / "tests" / "tiny_problem.py"


TINY = f"{OWN}:Tiny"


WAIT = 60.0
"""Seconds after which something that should happen is taken not to."""


def write_suite(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    content = {"seeds": [0], "problems": [TINY], "weighters": ["uniform"], **changes}
    path.write_text(as_yaml(content), encoding="utf-8")
    return path


def planned(suite: Path, *weighters: str) -> list[RunSpec]:
    return make_plan(read_suite(str(suite)), Filters(weighters=weighters or None), "cpu").runs


def command(suite: Path, *more: str, out: str = "out") -> list[str]:
    folder = suite.parent
    places = ["--out", str(folder / out), "--plots", str(folder / "plots")]
    return [sys.executable, str(ROOT / "run_bench.py"), str(suite), "--jobs", "2", *places, *more]


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


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=2 * WAIT)
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


def gone(processes: Sequence[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def runs_of(out: Path) -> dict[str, Run]:
    return {place.name: read_run(place) for place in run_folders(out / "mine")}


def checkpoints(out: Path) -> list[Path]:
    return list((out / "mine" / "unfinished").glob("*.pt"))


def numbers(run: Run) -> dict[str, Any]:
    """All of a record but what depends on the clock and the machine."""
    kept = run.record.model_dump(exclude={"costs", "started", "ended", "resumed", "commit", "machine", "trajectory_sha256"})
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
