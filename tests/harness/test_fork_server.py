"""The process from which runs are forked is killed: each run ends in a row, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from commands_at_work import descendants, finish, gone, runs_of, servers, start, traced, wait_until
from suites import suite_file

pytestmark = pytest.mark.slow


def kill_server(process: subprocess.Popen[str]) -> None:
    wait_until(lambda: servers(process), "a fork server")
    (server,) = servers(process)
    server.kill()
    wait_until(lambda: gone([server]), "the end of the fork server")


def lines_of_runs(stdout: str, state: str) -> int:
    return sum(line.startswith(state) for line in stdout.splitlines())


def test_the_fork_server_is_killed_while_runs_train_and_others_wait(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, seeds=[0, 1, 2], training={"steps": 30}, weighters=["uniform"])
    process = start(suite, "--weighters", "uniform", sleep=0.02)
    wait_until(lambda: (tmp_path / "trace.txt").exists() and len(traced(suite)) == 2, "two runs in training")
    kill_server(process)
    code, stdout, stderr = finish(process)
    assert code == 0
    (warning,) = stderr.splitlines()
    assert warning.startswith("warning: the process from which runs are started was killed, perhaps for lack of memory")
    runs = runs_of(tmp_path / "out")
    assert [run.record.state for run in runs.values()] == ["finished"] * 3
    assert lines_of_runs(stdout, "finished") == 3
    assert len(traced(suite)) == 3


def test_the_fork_server_is_killed_while_it_loads_and_again(tmp_path: Path) -> None:
    """Before it can fork anything: a start that was asked for fails, and is asked for again."""
    suite = suite_file(tmp_path)
    process = start(suite, "--weighters", "uniform")
    kill_server(process)
    wait_until(lambda: process.poll() is not None or servers(process), "another fork server")
    kill_server(process)
    code, _, stderr = finish(process)
    assert code == 0
    assert stderr.count("\n") == 1
    assert "was killed 2 times" in stderr
    assert [run.record.state for run in runs_of(tmp_path / "out").values()] == ["finished"]


def test_server_and_workers_killed_together_are_rows(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, training={"steps": 400}, weighters=["uniform"])
    process = start(suite, "--weighters", "uniform,random", sleep=0.02)
    wait_until(lambda: (tmp_path / "trace.txt").exists() and len(traced(suite)) == 2, "two runs in training")
    workers = [int(line.split()[0]) for line in traced(suite)]
    for victim in (*servers(process), *map(psutil.Process, workers)):
        victim.kill()
    code, stdout, stderr = finish(process)
    assert code == 1
    assert stderr.splitlines()[-1].startswith("error: 2 of 2 runs did not finish; the first: ")
    assert "Traceback" not in stdout + stderr
    found = runs_of(tmp_path / "out")
    assert [run.record.state for run in found.values()] == ["crashed"] * 2
    assert all("its process ended" in (run.record.reason or "") for run in found.values())


def test_ctrl_c_stops_workers_whose_server_was_killed(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, training={"steps": 100_000}, weighters=["uniform"])
    process = start(suite, "--weighters", "uniform,random", sleep=0.02)
    wait_until(lambda: (tmp_path / "trace.txt").exists() and len(traced(suite)) == 2, "two runs in training")
    children = descendants(process)
    kill_server(process)
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = finish(process)
    assert code == 130
    assert "stopped: 0 of 2 runs are recorded" in stdout
    assert "Traceback" not in stderr
    wait_until(lambda: gone(children), "no process left")
