"""Signals at any time: while modules load, while runs train, while the report is written. Each ends in one line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from commands_at_work import (
    LONG,
    default_signals,
    descendants,
    everywhere,
    finish,
    gone,
    in_process,
    jobs_of,
    runs_of,
    servers,
    start,
    wait_until,
)
from suites import suite_file

from benchmarks.harness.interrupts import SIGNALS

pytestmark = pytest.mark.slow


EXIT = {number: 128 + number for number in SIGNALS}


def held_at(folder: Path, module: str) -> dict[str, str]:
    """The environment of a command that stops where it begins to import a module, and says so with a file."""
    return everywhere(
        folder,
        f"""
        import pathlib, sys, threading
        class Finder:
            def find_spec(self, name, *_):
                if name == {module!r} and "run_bench.py" in " ".join(sys.argv):
                    pathlib.Path({str(folder / "reached")!r}).touch()
                    # A lock that nobody will free; signals are handled meanwhile.
                    lock = threading.Lock()
                    lock.acquire()
                    lock.acquire(timeout=120)
        sys.meta_path.insert(0, Finder())
        """,
    )


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("benchmarks.cli.commands", signal.SIGINT),
        ("torch", signal.SIGTERM),
        ("pandas", signal.SIGHUP),
        ("benchmarks.planning.follow_up", signal.SIGINT),
    ],
)
def test_a_signal_while_modules_are_loaded_is_one_line(module: str, number: signal.Signals, tmp_path: Path) -> None:
    suite = suite_file(tmp_path)
    process = start(suite, more=held_at(tmp_path, module), preexec_fn=default_signals)
    wait_until(lambda: (tmp_path / "reached").exists() or process.poll() is not None, "the import")
    process.send_signal(number)
    assert finish(process) == (EXIT[number], "", "interrupted\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("group", "number"), [(True, signal.SIGINT), (False, signal.SIGTERM), (False, signal.SIGHUP)], ids=str
)
def test_a_signal_while_runs_train(group: bool, number: signal.Signals, tmp_path: Path) -> None:
    suite = suite_file(tmp_path, training={"steps": 100_000})
    process = start(suite, "--weighters", "uniform", sleep=0.02, preexec_fn=default_signals)
    wait_until(lambda: list((tmp_path / "out" / "mine" / "unfinished").glob("*.pt")), "a checkpoint")
    children = descendants(process)
    os.killpg(process.pid, number) if group else process.send_signal(number)
    code, stdout, stderr = finish(process)
    assert (code, stderr) == (EXIT[number], "")
    assert "stopped: 0 of 1 runs are recorded; the same command goes on from here:" in stdout
    wait_until(lambda: gone(children), "no process left")


def test_ctrl_c_to_all_while_the_fork_server_loads(tmp_path: Path) -> None:
    suite = suite_file(tmp_path)
    process = start(suite, "--weighters", "uniform", preexec_fn=default_signals)
    wait_until(lambda: servers(process), "a fork server")
    children = descendants(process)
    os.killpg(process.pid, signal.SIGINT)
    code, stdout, stderr = finish(process)
    assert (code, stderr) == (EXIT[signal.SIGINT], "")
    assert "stopped: 0 of 1 runs are recorded" in stdout
    wait_until(lambda: gone(children), "no process left")


def test_a_signal_while_the_report_is_written(tmp_path: Path) -> None:
    suite = suite_file(tmp_path)
    for job in jobs_of(suite, "uniform"):
        in_process(job)
    process = start(suite, "--weighters", "uniform", more=held_at(tmp_path, "matplotlib"), preexec_fn=default_signals)
    wait_until(lambda: (tmp_path / "reached").exists() or process.poll() is not None, "the report")
    process.send_signal(signal.SIGTERM)
    code, _, stderr = finish(process)
    assert (code, stderr) == (EXIT[signal.SIGTERM], "interrupted\n")
    assert len(runs_of(tmp_path / "out")) == 1
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_hang_up_that_is_to_be_ignored_is(tmp_path: Path) -> None:
    """``nohup``."""
    suite = suite_file(tmp_path, training=LONG)
    process = start(suite, "--weighters", "uniform", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until(lambda: servers(process), "a fork server")
    os.killpg(process.pid, signal.SIGHUP)
    code, _, stderr = finish(process)
    assert (code, stderr) == (0, "")
