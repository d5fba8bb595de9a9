"""What becomes of runs that an executor loses: told by one that trains nothing, or in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands_at_work import jobs_of
from suites import suite_file
from unlucky_executor import Unlucky, carried_out

from benchmarks.errors import UserError
from benchmarks.harness.dispatcher import LOST_TIMES
from benchmarks.harness.executor import Lost
from benchmarks.harness.worker import WorkerEvent, run_job
from benchmarks.records.storage import read_run, run_folder, run_folders

GONE = Lost("its machine was lost", again=True)


@pytest.mark.parametrize("times", [1, LOST_TIMES])
def test_a_run_whose_machine_is_lost_is_trained_on_another_and_is_no_failure(times: int, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    found = carried_out([job], executor := Unlucky(*[GONE] * times))
    assert [(row.state, row.reason) for row in found.recorded] == [("finished", "")]
    assert executor.started == [job.spec.key] * (times + 1)
    assert [warning.rpartition(", ")[2] for warning in found.warnings] == [
        "seed 0: its machine was lost; tried again"
    ] * times


def test_a_run_whose_machines_are_lost_again_and_again_is_a_row(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    found = carried_out([job], executor := Unlucky(*[GONE] * (LOST_TIMES + 1)))
    assert [(row.state, row.reason) for row in found.recorded] == [("crashed", "its machine was lost; it was lost 4 times")]
    assert len(executor.started) == 1 + LOST_TIMES
    assert read_run(run_folder(job.folder, job.spec.key)).record.reason == "its machine was lost; it was lost 4 times"


def test_a_run_whose_process_is_lost_is_a_row_at_once_and_the_others_go_on(tmp_path: Path) -> None:
    jobs = jobs_of(suite_file(tmp_path), "uniform", "random")
    found = carried_out(jobs, executor := Unlucky(Lost("its process died")))
    assert sorted((row.state, row.reason) for row in found.recorded) == [("crashed", "its process died"), ("finished", "")]
    assert len(executor.started) == 2


def test_memory_that_ran_out_on_a_machine_is_told_as_that(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    found = carried_out([job], Unlucky(Lost("no memory", state="out_of_memory")))
    assert [row.state for row in found.recorded] == ["out_of_memory"]
    assert read_run(run_folder(job.folder, job.spec.key)).record.state == "out_of_memory"


def test_a_lost_run_that_had_written_its_record_keeps_it(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    run_job(job, lambda _: None, lambda: False)
    found = carried_out([job], Unlucky(GONE))
    assert [row.state for row in found.recorded] == ["finished"]
    assert len(list(run_folders(job.folder))) == 1


def test_a_machine_that_can_train_nothing_ends_the_command_and_no_run_is_a_row(tmp_path: Path) -> None:
    jobs = jobs_of(suite_file(tmp_path), "uniform", "random")
    refused = WorkerEvent("refused", text="node7: expected torch 2.13.0, found 2.12.0")
    executor = Unlucky(refused)
    with pytest.raises(UserError, match=r"^node7: expected torch"):
        carried_out(jobs, executor)
    assert (executor.stopped, executor.closed) == (True, True)
    # The other one was asked to stop, and so did.
    assert not list(run_folders(jobs[0].folder))
