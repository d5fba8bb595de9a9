"""One worker, in this process: what it records, failures as rows, a stop, a full disk."""

from __future__ import annotations

import os
import platform
import resource
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands_at_work import WAIT, Ear, in_process, jobs_of, own
from suites import OWN, TINY, suite_file

from benchmarks.harness import loop
from benchmarks.harness.local import work
from benchmarks.records.locks import lock_of
from benchmarks.records.storage import TRAJECTORY_FILE, read_run, run_folder


def spoilt(spoil: str) -> list[dict[str, Any]]:
    return [{"name": TINY, "options": {"spoil": spoil, "spoil_at": 12}}]


FAILURES: dict[str, tuple[dict[str, Any], str, str, str, int | None]] = {
    "weighter raises": (
        {"weighters": [own("Raises")]},
        f"{OWN}:Raises",
        "crashed",
        "ArithmeticError: no weights today nor tomorrow",
        7,
    ),
    "weighter returns NaN": ({"weighters": [own("TurnsNaN")]}, f"{OWN}:TurnsNaN", "diverged", "weight of small is not", 7),
    "weighter raises over NaN": (
        {"weighters": [own("Indignant")], "problems": spoilt("nan")},
        f"{OWN}:Indignant",
        "diverged",
        "indignant: expected every task",
        12,
    ),
    "loss is NaN": ({"problems": spoilt("nan")}, "uniform", "diverged", "loss of small is not finite", 12),
    "loss is infinite": ({"problems": spoilt("infinite")}, "uniform", "diverged", "loss of small is not finite", 12),
    "no memory on the device": ({"problems": spoilt("memory")}, "uniform", "out_of_memory", "no memory for this step", 12),
    "no memory for a tensor": (
        {"problems": spoilt("torch's memory")},
        "uniform",
        "out_of_memory",
        "; to try: a smaller training.batch_size, or training.accumulate above 1",
        12,
    ),
    "no memory": ({"problems": spoilt("host memory")}, "uniform", "out_of_memory", "MemoryError", 12),
    "problem raises": ({"problems": spoilt("error")}, "uniform", "crashed", "spoilt on purpose with a second line", 12),
    "batch too large": (
        {"training": {"batch_size": 41}},
        "uniform",
        "crashed",
        "expected batch_size to be at most 40",
        None,
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_a_row(failure: str, tmp_path: Path) -> None:
    changes, weighter, state, reason, step = FAILURES[failure]
    (job,) = jobs_of(suite_file(tmp_path, **changes), weighter)
    message = in_process(job)
    record = read_run(run_folder(job.folder, job.spec.key)).record
    assert (message.kind, message.state, record.state) == ("recorded", state, state)
    assert record.reason is not None
    assert reason in record.reason
    assert "\n" not in record.reason
    assert message.text == record.reason
    assert record.failed_step == step
    assert record.selection is None
    assert record.metrics == {}
    assert not list((job.folder / "unfinished").glob("*.pt"))


def test_rows_up_to_the_failure_are_kept(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path, problems=spoilt("nan")), "uniform")
    in_process(job)
    table = read_run(run_folder(job.folder, job.spec.key)).trajectory
    assert table["step"].unique().tolist() == [0, 5, 10]
    assert table["train_loss"].notna().all()


def test_a_record_says_what_was_run(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path, weighters=["coba"]), "coba")
    in_process(job)
    record = read_run(run_folder(job.folder, job.spec.key)).record
    assert (record.state, record.key, record.suite, record.run) == ("finished", job.spec.key, "mine", job.spec)
    assert record.tasks == ("small", "medium", "large")
    assert [info.key for info in record.metric_infos] == ["small/mse", "medium/mse", "large/mse"]
    # In a run of twenty steps the warm-up is the least of five steps, and the window five times that.
    assert record.resolved == {**record.run.weighter.hyperparameters, "warmup": 5, "window": 25}
    assert record.num_parameters == 4 * 3 + 3 + 3 * (3 + 1)
    assert record.selection is not None and record.selection.step in (0, 10, 20)
    assert set(record.metrics) == {"validation", "test"}
    assert record.costs is not None and record.costs.extra_forwards == 1
    assert record.costs.peak_memory_mb is not None
    assert {"python", "torch"} <= set(record.versions)
    assert record.machine["device"] == "cpu"
    assert (record.machine["executor"], record.machine["process"]) == ("local", "own")
    assert record.machine["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert record.machine["host"] and platform.node() not in str(record.machine)
    assert record.ended is not None and record.started <= record.ended
    assert (record.resumed, record.reason, record.failed_step) == (0, None, None)


def test_a_worker_does_not_repeat_what_is_recorded(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    assert in_process(job).state == "finished"
    place = run_folder(job.folder, job.spec.key) / TRAJECTORY_FILE
    before = place.stat().st_mtime_ns
    assert in_process(job).state == "finished"
    assert place.stat().st_mtime_ns == before


def test_a_worker_replaces_the_failure_it_was_told_to_and_no_other(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path, weighters=[own("Raises")]), f"{OWN}:Raises")
    in_process(job)
    record = run_folder(job.folder, job.spec.key)
    first = record.stat().st_ino
    assert in_process(job).state == "crashed"
    assert record.stat().st_ino == first
    (again,) = jobs_of(tmp_path / "mine.yaml", f"{OWN}:Raises", replaces=read_run(record).record.started)
    assert in_process(again).state == "crashed"
    assert record.stat().st_ino != first


def test_a_run_in_another_hand_is_left_to_it(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    with lock_of(job.folder, job.spec.key):
        assert in_process(job).kind == "busy"
    assert in_process(job).kind == "recorded"


def test_a_worker_that_is_asked_to_stop_says_so_and_goes_on_later(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")

    class Stopping(Ear):
        def send(self, message: Any) -> None:
            super().send(message)
            if message.kind == "progress" and message.step == 10:
                os.kill(os.getpid(), signal.SIGTERM)

    ear = Stopping()
    work(job, ear)  # type: ignore[arg-type]
    assert ear.messages[-1].kind == "stopped"
    assert [message.step for message in ear.messages[:-1]] == [5, 10]
    assert not run_folder(job.folder, job.spec.key).exists()
    assert in_process(job).state == "finished"
    assert read_run(run_folder(job.folder, job.spec.key)).record.resumed == 1
    assert not list((job.folder / "unfinished").glob("*.pt"))


def test_a_worker_whose_parent_is_gone_ends(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")

    class Gone(Ear):
        def send(self, message: Any) -> None:
            raise BrokenPipeError

    with pytest.raises(SystemExit):
        work(job, Gone())  # type: ignore[arg-type]
    assert not run_folder(job.folder, job.spec.key).exists()


@pytest.mark.parametrize("where", ["checkpoint", "record"])
def test_a_disk_without_room_is_not_a_failure_of_the_run(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for a full disk: what is there stays, and nothing half-written is left."""
    suite = suite_file(tmp_path)
    (job,), (neighbour,) = jobs_of(suite, "uniform"), jobs_of(suite, "random")
    in_process(neighbour)
    before = read_run(run_folder(neighbour.folder, neighbour.spec.key))
    if where == "record":
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", WAIT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(Ear):
        def send(self, message: Any) -> None:
            super().send(message)
            if message.kind == "progress" and message.step == 10:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

    ear = Full()
    try:
        work(job, ear)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = ear.messages[-1]
    assert message.kind == "cannot_write"
    assert message.text.startswith("cannot write")
    assert message.text.endswith("File too large")
    assert "\n" not in message.text
    assert [spoken.step for spoken in ear.messages[:-1]] == ([5, 10] if where == "checkpoint" else [5, 10, 15, 20])
    assert not run_folder(job.folder, job.spec.key).exists()
    assert not list((job.folder / "runs").glob(".*"))
    assert not list((job.folder / "unfinished").glob("*.writing"))
    after = read_run(run_folder(job.folder, neighbour.spec.key))
    pd.testing.assert_frame_equal(after.trajectory, before.trajectory)
    assert in_process(job).state == "finished"
