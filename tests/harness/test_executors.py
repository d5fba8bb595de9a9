"""Executors: the same numbers wherever a run is trained, a clean stop, and runs in the hands of other commands."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from commands_at_work import LEARNERS, assert_same_numbers, checkpoints, in_process, jobs_of, own, runs_of
from suites import suite_file

from benchmarks.cli import main as command_line
from benchmarks.harness import dispatcher, here, processes
from benchmarks.harness.devices import Devices
from benchmarks.harness.dispatcher import PlanResult, execute
from benchmarks.harness.executor import Lost
from benchmarks.harness.pairs import Pairs
from benchmarks.harness.peak_memory import PeakMemory
from benchmarks.harness.worker import Job, WorkerEvent
from benchmarks.records.locks import lock_of
from benchmarks.records.storage import read_run, run_folder

Name = Literal["local", "here"]
NAMES: tuple[Name, ...] = ("local", "here")


def carried_out(jobs: list[Job], executor: Name, **more: Any) -> PlanResult:
    return execute(jobs[0].folder, "mine", [job.spec for job in jobs], jobs=2, devices=Devices(), executor=executor, **more)


@pytest.mark.slow
def test_numbers_are_the_same_in_this_process_and_in_others(tmp_path: Path) -> None:
    for name in NAMES:
        suite = suite_file(tmp_path / name, weighters=["uniform", *LEARNERS])
        found = carried_out(jobs_of(suite, "uniform", "gradnorm", "coba"), name)
        assert found.complete and not found.failures
        facts = [run.record.machine for run in runs_of(tmp_path / name / "out").values()]
        told = {(fact["executor"], fact["process"]) for fact in facts}
        assert told == {(name, "own" if name == "local" else "shared")}
    assert_same_numbers(*(runs_of(tmp_path / name / "out") for name in NAMES))


def test_a_failure_in_this_process_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, weighters=[own("Raises"), "uniform"])
    found = carried_out(jobs_of(suite, own("Raises")["name"], "uniform"), "here")
    assert sorted(row.state for row in found.recorded) == ["crashed", "finished"]


def test_ctrl_c_in_this_process_leaves_a_checkpoint_and_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = suite_file(tmp_path / "whole")
    carried_out(jobs_of(whole, "uniform", "random"), "here")
    suite = suite_file(tmp_path / "stopped")
    jobs = jobs_of(suite, "uniform", "random")

    class Impatient(here.HereExecutor):
        def hear(self, seconds: float) -> Any:
            tell = self._progress

            def interrupting(slot: int, event: WorkerEvent) -> None:
                tell(slot, event)
                if event.step >= 4:
                    os.kill(os.getpid(), signal.SIGINT)

            self._progress = interrupting
            return super().hear(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher, "HereExecutor", Impatient)
        found = carried_out(jobs, "here")
    assert (found.signal, found.unfinished, found.exit_code) == (signal.SIGINT, 2, 130)
    assert len(checkpoints(suite.parent / "out")) == 1
    assert carried_out(jobs, "here").complete
    assert_same_numbers(runs_of(tmp_path / "whole" / "out"), runs_of(suite.parent / "out"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_without_waiting_a_command_leaves_what_is_in_other_hands(name: Name, tmp_path: Path) -> None:
    suite = suite_file(tmp_path)
    jobs = jobs_of(suite, "uniform", "random")
    with lock_of(jobs[0].folder, jobs[0].spec.key):
        found = carried_out(jobs, name, wait=False)
    assert [row.spec.key for row in found.recorded] == [jobs[1].spec.key]
    assert (found.unfinished, found.interrupted, found.complete, found.exit_code) == (1, False, False, 0)
    assert carried_out(jobs, name, wait=False).complete


def test_the_command_says_what_it_leaves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    suite = suite_file(tmp_path)
    job, *_ = jobs_of(suite, "uniform")
    words = [str(suite), "--trust", "--weighters", "uniform", "--executor", "here", "--no-wait"]
    out = ["--out", str(tmp_path / "out"), "--plots", str(tmp_path / "plots")]
    with lock_of(job.folder, job.spec.key):
        assert command_line.main([*words, *out]) == 0
    said = capfd.readouterr()
    assert "0 of 1 runs are recorded, the others are in the hands of other commands" in said.out
    assert (said.err, list((tmp_path / "plots").iterdir())) == ("", [])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot forget its peak")
def test_memory_is_that_of_the_run_whatever_the_process_held_before() -> None:
    held = np.ones(40_000_000)
    del held
    memory = PeakMemory()
    memory.start(torch.device("cpu"))
    assert (memory.peak_mb(torch.device("cpu")) or 0) < 100
    held = np.ones(40_000_000)
    assert (memory.peak_mb(torch.device("cpu")) or 0) > 300
    del held


def test_a_server_that_is_always_killed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    asked: list[object] = []

    def killed(*_: Any) -> Any:
        asked.append(1)
        raise EOFError("unexpected EOF")

    monkeypatch.setattr(processes.ProcessStarter, "_start", killed)
    monkeypatch.setattr(processes.ProcessStarter, "_wait_for_its_end", lambda self: None)
    outcome = dispatcher.execute(job.folder, "mine", [job.spec], jobs=1, devices=Devices())
    assert len(asked) == processes.ATTEMPTS
    (row,) = outcome.recorded
    assert (row.state, row.reason.partition(",")[0]) == ("crashed", "no process could be started for it")
    record = read_run(run_folder(job.folder, job.spec.key)).record
    assert (record.state, record.reason) == ("crashed", row.reason)


def test_what_a_worker_recorded_before_it_was_killed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its record and its word to the parent."""
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    in_process(job)
    there = dispatcher._Dispatcher([job], dispatcher.PlanResult(), 1, Pairs(()), wait=True)
    there._lost(job, Lost("its process was ended by SIGKILL"))
    assert [row.state for row in there.result.recorded] == ["finished"]
    assert read_run(run_folder(job.folder, job.spec.key)).record.state == "finished"
