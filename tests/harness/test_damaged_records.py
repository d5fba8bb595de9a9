"""Records that were damaged: known as such, set aside, trained again; leftovers go, numbers never change unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_line import train
from commands_at_work import assert_same_numbers, in_process, jobs_of, runs_of
from suites import suite_file
from written_records import change, change_trajectory, cut, rewrite

from benchmarks.harness import dispatcher
from benchmarks.harness.worker import Job
from benchmarks.planning import status
from benchmarks.records.locks import lock_of
from benchmarks.records.schema import COLUMNS
from benchmarks.records.storage import RUN_FILE, TRAJECTORY_FILE, DamagedRecordError, read_run, remove_leftovers, run_folder


@pytest.fixture
def recorded(tmp_path: Path) -> Job:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    in_process(job)
    return job


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


@pytest.mark.slow
def test_damaged_runs_are_set_aside_and_trained_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    suite = suite_file(tmp_path)
    jobs = jobs_of(suite)
    for job in jobs:
        in_process(job)
    before = runs_of(tmp_path / "out")
    first, second, *others = (run_folder(job.folder, job.spec.key) for job in jobs)
    cut(first / RUN_FILE)
    cut(second / TRAJECTORY_FILE)
    untouched = {place: (place / RUN_FILE).stat().st_mtime_ns for place in others}
    capfd.readouterr()
    assert train(suite) == 0
    said = capfd.readouterr()
    assert "5 runs: 3 recorded, 2 to train" in said.out
    warnings = said.err.splitlines()
    assert len(warnings) == 2
    for warning, place in zip(warnings, (first, second), strict=True):
        aside = tmp_path / "out" / "mine" / "set_aside" / f"{place.name}-0"
        assert warning.startswith(f"warning: set aside as {aside}, trained again: {place}")
        assert (aside / "reason.txt").read_text(encoding="utf-8").strip() in warning
    assert_same_numbers(runs_of(tmp_path / "out"), before)
    assert {place: (place / RUN_FILE).stat().st_mtime_ns for place in others} == untouched


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
