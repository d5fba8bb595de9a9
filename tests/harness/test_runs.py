"""Processes: killed and resumed, interrupted, failing, two at once, damaged records, a full disk."""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands_at_work import (
    LEARNERS,
    LONG,
    ONLY,
    OWN,
    TINY,
    WAIT,
    Ear,
    assert_same_numbers,
    call,
    checkpoints,
    command,
    descendants,
    finish,
    gone,
    in_process,
    jobs_of,
    own,
    runs_of,
    start,
    traced,
    wait_until,
    write_suite,
)
from written_records import change, change_trajectory, rewrite

from benchmarks.harness import dispatcher, loop
from benchmarks.harness.interrupts import SIGNALS
from benchmarks.harness.local import work
from benchmarks.harness.worker import Job
from benchmarks.planning import status
from benchmarks.records.locks import lock_of
from benchmarks.records.schema import COLUMNS, Run
from benchmarks.records.storage import (
    RUN_FILE,
    TRAJECTORY_FILE,
    DamagedRecordError,
    read_run,
    remove_leftovers,
    run_folder,
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The long runs of the kill tests, trained at a stretch."""
    suite = write_suite(tmp_path_factory.mktemp("uninterrupted"), training=LONG, weighters=LEARNERS)
    for job in jobs_of(suite, *ONLY[1].split(",")):
        assert in_process(job).kind == "recorded"
    return runs_of(suite.parent / "out")


# ---- one worker, in this process -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _keep_signals() -> Iterator[None]:
    """A worker sets its own handlers; here it is no process of its own."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
    (job,) = jobs_of(write_suite(tmp_path, **changes), weighter)
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
    (job,) = jobs_of(write_suite(tmp_path, problems=spoilt("nan")), "uniform")
    in_process(job)
    table = read_run(run_folder(job.folder, job.spec.key)).trajectory
    assert table["step"].unique().tolist() == [0, 5, 10]
    assert table["train_loss"].notna().all()


def test_a_record_says_what_was_run(tmp_path: Path) -> None:
    (job,) = jobs_of(write_suite(tmp_path, weighters=["coba"]), "coba")
    in_process(job)
    record = read_run(run_folder(job.folder, job.spec.key)).record
    assert (record.state, record.key, record.suite, record.run) == ("finished", job.spec.key, "mine", job.spec)
    assert record.tasks == ("small", "medium", "large")
    assert [info.key for info in record.metric_infos] == ["small/mse", "medium/mse", "large/mse"]
    # Two validation batches and the least warm-up of twenty steps.
    assert record.resolved == {**record.run.weighter.hyperparameters, "warmup": 20, "window": 100}
    assert record.num_parameters == 4 * 3 + 3 + 3 * (3 + 1)
    assert record.selection is not None and record.selection.step in (0, 10, 20)
    assert set(record.metrics) == {"validation", "test"}
    assert record.costs is not None and record.costs.extra_forwards == 1
    assert record.costs.peak_memory_mb is not None
    assert {"python", "torch"} <= set(record.versions)
    assert record.machine["device"] == "cpu"
    assert record.machine["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert record.machine["host"] and platform.node() not in str(record.machine)
    assert record.ended is not None and record.started <= record.ended
    assert (record.resumed, record.reason, record.failed_step) == (0, None, None)


def test_a_worker_does_not_repeat_what_is_recorded(tmp_path: Path) -> None:
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
    assert in_process(job).state == "finished"
    place = run_folder(job.folder, job.spec.key) / TRAJECTORY_FILE
    before = place.stat().st_mtime_ns
    assert in_process(job).state == "finished"
    assert place.stat().st_mtime_ns == before


def test_a_worker_replaces_the_failure_it_was_told_to_and_no_other(tmp_path: Path) -> None:
    (job,) = jobs_of(write_suite(tmp_path, weighters=[own("Raises")]), f"{OWN}:Raises")
    in_process(job)
    record = run_folder(job.folder, job.spec.key)
    first = record.stat().st_ino
    assert in_process(job).state == "crashed"
    assert record.stat().st_ino == first
    (again,) = jobs_of(tmp_path / "mine.yaml", f"{OWN}:Raises", replaces=read_run(record).record.started)
    assert in_process(again).state == "crashed"
    assert record.stat().st_ino != first


def test_a_run_in_another_hand_is_left_to_it(tmp_path: Path) -> None:
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
    with lock_of(job.folder, job.spec.key):
        assert in_process(job).kind == "busy"
    assert in_process(job).kind == "recorded"


def test_a_worker_that_is_asked_to_stop_says_so_and_goes_on_later(tmp_path: Path) -> None:
    (job,) = jobs_of(write_suite(tmp_path), "uniform")

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
    (job,) = jobs_of(write_suite(tmp_path), "uniform")

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
    suite = write_suite(tmp_path)
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


# ---- damaged records -------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path) -> Job:
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
    in_process(job)
    return job


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "run.json is cut": (lambda place: cut(place / RUN_FILE), "cannot be read"),
    "run.json is empty": (lambda place: (place / RUN_FILE).write_text(""), "cannot be read"),
    "run.json is a list": (lambda place: (place / RUN_FILE).write_text("[]"), "cannot be read"),
    "run.json is binary": (lambda place: (place / RUN_FILE).write_bytes(b"\xff\xfe"), "cannot be read"),
    "run.json is missing": (lambda place: (place / RUN_FILE).unlink(), "No such file"),
    "run.json lacks a key": (lambda place: rewrite(place, {"schema_version": 3}), "Field required"),
    "run.json has a wrong type": (lambda place: change(place, state="done"), "state: "),
    "run.json is of another version": (
        lambda place: change(place, schema_version=0),
        "expected schema_version 3",
    ),
    "run.json is of another run": (lambda place: change(place, key="0" * 16), "expected key"),
    "trajectory is cut": (lambda place: cut(place / TRAJECTORY_FILE), "cannot be read"),
    "trajectory is empty": (lambda place: (place / TRAJECTORY_FILE).write_bytes(b""), "cannot be read"),
    "trajectory is missing": (lambda place: (place / TRAJECTORY_FILE).unlink(), "cannot be read"),
    "trajectory lacks a column": (
        lambda place: change_trajectory(place, pd.DataFrame({"step": [0]})),
        "expected columns step, replica, task",
    ),
    "trajectory has no rows": (
        lambda place: change_trajectory(place, pd.DataFrame(columns=list(COLUMNS))),
        "expected rows of a finished run, found none",
    ),
    "a file where the folder should be": (
        lambda place: place.rename(f"{place}-") and place.write_text(""),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_known(damage: str, recorded: Job) -> None:
    do, reason = DAMAGES[damage]
    do(run_folder(recorded.folder, recorded.spec.key))
    standing = status.plan_status(recorded.folder, [recorded.spec])
    assert (standing.recorded, list(standing.to_do)) == ([], [recorded.spec.key])
    assert reason in standing.damaged[recorded.spec.key]
    assert "\n" not in standing.damaged[recorded.spec.key]
    (warning,) = dispatcher._set_damaged_aside(recorded.folder, recorded.spec.key)
    assert reason in warning
    assert in_process(recorded).state == "finished"
    assert not status.plan_status(recorded.folder, [recorded.spec]).to_do


def test_no_flipped_byte_of_a_trajectory_changes_a_number_unseen(recorded: Job) -> None:
    place = run_folder(recorded.folder, recorded.spec.key)
    content, whole = (place / TRAJECTORY_FILE).read_bytes(), read_run(place).trajectory
    seen = 0
    for position in range(0, len(content), 23):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        (place / TRAJECTORY_FILE).write_bytes(damaged)
        try:
            found = read_run(place).trajectory
        except DamagedRecordError:
            seen += 1
        else:
            pd.testing.assert_frame_equal(found, whole, check_exact=True)
    assert seen > 10


def test_leftovers_are_removed_unless_their_writer_lives(recorded: Job) -> None:
    runs = recorded.folder / "runs"
    dead, alive = runs / f".{recorded.spec.key}-abc", runs / ".0123456789abcdef-xyz"
    dead.mkdir()
    alive.mkdir()
    with lock_of(recorded.folder, "0123456789abcdef"):
        remove_leftovers(recorded.folder)
        assert not dead.exists()
        assert alive.exists()
    remove_leftovers(recorded.folder)
    assert not alive.exists()
    assert read_run(run_folder(recorded.folder, recorded.spec.key)).record.state == "finished"


# ---- whole commands --------------------------------------------------------------------------------------------------


@pytest.fixture
def long(tmp_path: Path) -> Path:
    return write_suite(tmp_path, training=LONG, weighters=LEARNERS)


def started_and_saved(suite: Path) -> subprocess.Popen[str]:
    """A command in the middle of its two long runs: both have a checkpoint of this command, none is recorded."""
    out = suite.parent / "out"
    before = {path: path.stat().st_mtime_ns for path in checkpoints(out)}
    process = start(suite, *ONLY, sleep=0.02)
    wait_until(
        lambda: sum(path.stat().st_mtime_ns != before.get(path) for path in checkpoints(out)) == 2, "two new checkpoints"
    )
    assert process.poll() is None
    assert runs_of(out) == {}
    return process


def test_interrupted_and_killed_it_goes_on_and_ends_with_the_same_bits(long: Path, uninterrupted: dict[str, Run]) -> None:
    out = long.parent / "out"
    process = started_and_saved(long)
    children = descendants(process)
    assert len(children) >= 3
    os.killpg(process.pid, signal.SIGINT)
    code, stdout, stderr = finish(process)
    assert (code, stderr) == (130, "")
    assert "stopped: 0 of 2 runs are recorded; the same command goes on from here:" in stdout
    program, *arguments = stdout.splitlines()[-1].split()
    assert program.startswith("python")
    assert arguments == command(long, *ONLY)[1:]
    wait_until(lambda: gone(children), "no process left")
    assert len(checkpoints(out)) == 2

    process = started_and_saved(long)
    children = descendants(process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    wait_until(lambda: gone(children), "no process left")

    code, _, stderr = call(long, *ONLY)
    assert (code, stderr) == (0, "")
    runs = runs_of(out)
    assert {run.record.resumed for run in runs.values()} == {2}
    assert_same_numbers(runs, uninterrupted)
    assert len(traced(long)) == 6
    assert not checkpoints(out)

    code, stdout, stderr = call(long, *ONLY)
    assert (code, stderr) == (0, "")
    assert "2 runs: 2 recorded, 0 to train" in stdout
    assert len(traced(long)) == 6


def test_ctrl_c_while_the_workers_start_is_clean_too(long: Path) -> None:
    process = start(long, *ONLY, sleep=0.02)
    wait_until(lambda: len(descendants(process)) >= 3, "a first worker")
    children = descendants(process)
    os.killpg(process.pid, signal.SIGINT)
    code, stdout, stderr = finish(process)
    assert (code, stderr) == (130, "")
    assert "stopped: 0 of 2 runs are recorded" in stdout
    wait_until(lambda: gone(children), "no process left")


def test_workers_end_with_their_parent(long: Path) -> None:
    process = started_and_saved(long)
    children = descendants(process)
    process.kill()
    finish(process)
    wait_until(lambda: gone(children), "no process left")
    assert runs_of(long.parent / "out") == {}


def test_two_commands_at_once_share_the_work(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    processes = [start(suite, sleep=0.02) for _ in range(2)]
    results = [finish(process) for process in processes]
    assert [(code, stderr) for code, _, stderr in results] == [(0, ""), (0, "")]
    runs = runs_of(tmp_path / "out")
    assert len(runs) == 5
    assert {run.record.state for run in runs.values()} == {"finished"}
    assert {run.record.resumed for run in runs.values()} == {0}
    assert len(traced(suite)) == 5
    assert len({line.split()[0] for line in traced(suite)}) == 5
    assert not (tmp_path / "out" / "mine" / "set_aside").exists()


def test_failures_are_rows_and_the_others_go_on(tmp_path: Path) -> None:
    killed = {"name": TINY, "options": {"spoil": "killed"}, "weighters": ["uniform"]}
    suite = write_suite(tmp_path, problems=[TINY, killed], weighters=["uniform", own("Raises"), own("TurnsNaN")])
    only = ["--weighters", f"uniform,{OWN}:Raises,{OWN}:TurnsNaN"]
    code, stdout, stderr = call(suite, *only)
    assert code == 1
    assert stderr.startswith("error: 3 of 4 runs did not finish; the first: ")
    assert stderr.count("\n") == 1
    assert f"tables:   {tmp_path / 'out' / 'mine' / 'report.md'}" in stdout
    found = {
        (run.record.run.weighter.label, run.record.run.problem.options["spoil"]): (run.record.state, run.record.reason)
        for run in runs_of(tmp_path / "out").values()
    }
    assert found == {
        ("uniform", None): ("finished", None),
        ("Raises", None): ("crashed", "ArithmeticError: no weights today nor tomorrow"),
        ("TurnsNaN", None): (
            "diverged",
            "weight of small is not finite; weight of medium is not finite; weight of large is not finite",
        ),
        ("uniform", "killed"): ("crashed", "its process was ended by SIGKILL, perhaps for lack of memory"),
    }
    assert sorted(line.split()[1] for line in traced(suite)) == ["small+medium+large"] * 4

    # The finished and the diverged run would end the same way; the crashed ones are tried again, and still told.
    _, stdout, _ = call(suite, *only, "--dry-run")
    assert "4 runs: 2 recorded, 2 to train" in stdout
    assert len(traced(suite)) == 4
    code, _, stderr = call(suite, *only)
    assert code == 1
    assert stderr.startswith("error: 3 of 4 runs did not finish; the first: ")
    assert len(traced(suite)) == 6


def test_damaged_runs_are_set_aside_and_trained_again(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    jobs = jobs_of(suite)
    for job in jobs:
        in_process(job)
    before = runs_of(tmp_path / "out")
    first, second, *others = (run_folder(job.folder, job.spec.key) for job in jobs)
    cut(first / RUN_FILE)
    cut(second / TRAJECTORY_FILE)
    untouched = {place: (place / RUN_FILE).stat().st_mtime_ns for place in others}
    code, stdout, stderr = call(suite)
    assert code == 0
    assert "5 runs: 3 recorded, 2 to train" in stdout
    warnings = stderr.splitlines()
    assert len(warnings) == 2
    for warning, place in zip(warnings, (first, second), strict=True):
        aside = tmp_path / "out" / "mine" / "set_aside" / f"{place.name}-0"
        assert warning.startswith(f"warning: set aside as {aside}, trained again: {place}")
        assert (aside / "reason.txt").read_text(encoding="utf-8").strip() in warning
    assert_same_numbers(runs_of(tmp_path / "out"), before)
    assert {place: (place / RUN_FILE).stat().st_mtime_ns for place in others} == untouched


def test_a_full_disk_ends_the_command_and_keeps_what_is_finished(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    (kept,) = jobs_of(suite, "uniform")
    in_process(kept)
    before = runs_of(tmp_path / "out")

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    code, _, stderr = call(suite, preexec_fn=no_room)
    assert code == 3
    assert stderr.startswith(f"error: cannot write {tmp_path}")
    assert stderr.endswith(": File too large; everything that was finished is kept\n")
    assert stderr.count("\n") == 1
    assert_same_numbers(runs_of(tmp_path / "out"), before)
