"""Runs on other machines, of which this process plays all parts: the same numbers, one holder, and no run by other code."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands_at_work import LEARNERS, LONG, assert_same_numbers, checkpoints, in_process, jobs_of, runs_of
from suites import suite_file

from benchmarks.harness import remote
from benchmarks.harness.remote import Depot, Parcel, Returned, Seldom, Site, carry_out, kinds, look, tail
from benchmarks.harness.worker import Job, WorkerEvent
from benchmarks.records import provenance
from benchmarks.records.locks import is_free, lock_of
from benchmarks.records.presence import Presence
from benchmarks.records.storage import read_run, run_folder, write_run


@pytest.fixture(autouse=True)
def _stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine goes to the folder from which the command was called."""
    monkeypatch.chdir(Path.cwd())


@pytest.fixture
def presence(tmp_path: Path) -> Iterator[Presence]:
    with contextlib.closing(Presence(tmp_path / "out" / "mine")) as presence:
        yield presence


def silent(event: WorkerEvent) -> None:
    pass


def on_the_way(job: Job, depot: Depot, *, stop: bool = False) -> WorkerEvent:
    parcel = depot.pack(job)
    assert isinstance(parcel, Parcel)
    return depot.take_in(job, carry_out(parcel, silent, lambda: stop))


@pytest.mark.parametrize("in_place", [True, False])
def test_numbers_are_the_same_whether_or_not_the_folder_is_seen(in_place: bool, presence: Presence, tmp_path: Path) -> None:
    here = suite_file(tmp_path / "here", weighters=["uniform", *LEARNERS])
    for job in jobs_of(here, "uniform", "coba"):
        in_process(job)
    depot = Depot(Site.of(presence), in_place=in_place)
    for job in jobs_of(suite_file(tmp_path, weighters=["uniform", *LEARNERS]), "uniform", "coba"):
        assert on_the_way(job, depot).state == "finished"
    assert_same_numbers(runs_of(tmp_path / "here" / "out"), runs_of(tmp_path / "out"))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_stopped_run_leaves_its_checkpoint_and_goes_on_from_it(in_place: bool, presence: Presence, tmp_path: Path) -> None:
    suite = suite_file(tmp_path, training=LONG)
    (job,) = jobs_of(suite, "uniform")
    (whole,) = jobs_of(suite_file(tmp_path / "whole", training=LONG), "uniform")
    in_process(whole)
    depot = Depot(Site.of(presence), in_place=in_place)
    assert on_the_way(job, depot, stop=True).kind == "stopped"
    assert len(checkpoints(tmp_path / "out")) == 1
    assert on_the_way(job, depot).state == "finished"
    runs = runs_of(tmp_path / "out")
    assert [run.record.resumed for run in runs.values()] == [1]
    assert_same_numbers(runs, runs_of(tmp_path / "whole" / "out"))
    assert not checkpoints(tmp_path / "out")


def test_a_run_whose_folder_is_not_seen_is_held_by_who_sent_it_out(presence: Presence, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    depot = Depot(Site.of(presence), in_place=False)
    parcel = depot.pack(job)
    assert isinstance(parcel, Parcel)
    assert not is_free(lock_of(job.folder, job.spec.key))
    assert Depot(Site.of(presence), in_place=False).pack(job) == WorkerEvent("busy")
    assert depot.take_in(job, carry_out(parcel, silent, lambda: False)).state == "finished"
    assert is_free(lock_of(job.folder, job.spec.key))
    # Recorded since it was planned: it is not sent out again.
    assert depot.pack(job) == WorkerEvent("recorded", state="finished")
    assert is_free(lock_of(job.folder, job.spec.key))


def test_a_lost_run_is_nobodys(presence: Presence, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    depot = Depot(Site.of(presence), in_place=False)
    depot.pack(job)
    depot.drop(job)
    assert is_free(lock_of(job.folder, job.spec.key))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_run_trained_again_for_its_time_keeps_its_numbers(in_place: bool, presence: Presence, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    in_process(job)
    place = run_folder(job.folder, job.spec.key)
    known = read_run(place)
    # Of another machine, so that this one's time is wanted.
    other = known.record.model_copy(update={"machine": {**known.record.machine, "host": "elsewhere"}})
    write_run(place.parent, other, known.trajectory)
    end = on_the_way(replace(job, pair_of="coba"), Depot(Site.of(presence), in_place=in_place))
    assert (end.kind, end.warning) == ("recorded", "")
    found = read_run(place)
    assert len(found.record.timings) == 1
    assert found.record.metrics == known.record.metrics


def test_other_code_trains_nothing(presence: Presence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    site = Site.of(presence)
    monkeypatch.setattr(provenance, "code", lambda: "0123456789abcdef")
    assert f"expected the code that runs were planned with ({site.code}), found other code" in look(site, [job.spec]).wrong
    end = carry_out(Parcel(job, site, in_place=True), silent, lambda: False).end
    assert end.kind == "refused" and "found other code (0123456789abcdef)" in end.text


def test_other_versions_train_nothing(presence: Presence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    site = Site.of(presence)
    versions = {**site.versions, "torch": "1.0"}
    del versions["pandas"]
    monkeypatch.setattr(provenance, "versions", lambda: versions)
    assert look(site, [job.spec]).wrong == f"expected pandas {site.versions['pandas']}, found none"
    versions["pandas"] = site.versions["pandas"]
    assert look(site, [job.spec]).wrong == f"expected torch {site.versions['torch']}, found 1.0"


def test_the_code_is_known_by_every_module() -> None:
    assert len(provenance.code()) == 16
    assert provenance.code() == provenance.code.__wrapped__()


def test_a_method_that_a_machine_lacks_is_told_before_anything_trains(presence: Presence, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    absent = job.spec.problem.model_copy(update={"name": str(tmp_path / "absent.py:Problem")})
    answer = look(Site.of(presence), [job.spec.model_copy(update={"problem": absent})])
    assert f"expected a file at {tmp_path / 'absent.py'}, found none" in answer.wrong


def test_a_run_of_each_kind_is_asked_for(tmp_path: Path) -> None:
    specs = [job.spec for job in jobs_of(suite_file(tmp_path, seeds=[0, 1], weighters=["coba"]))]
    asked = kinds(specs)
    assert len(asked) < len(specs)
    assert {spec.weighter.name for spec in asked} == {spec.weighter.name for spec in specs}


def test_who_sees_the_folder_sees_its_locks(presence: Presence, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    answer = look(Site.of(presence), [job.spec])
    assert (answer.wrong, answer.sees_folder) == ("", True)


def test_a_folder_that_is_not_the_same_is_not_seen(presence: Presence, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    elsewhere = replace(Site.of(presence), folder=tmp_path / "elsewhere")
    answer = look(elsewhere, [job.spec])
    assert (answer.wrong, answer.sees_folder) == ("", False)
    end = carry_out(Parcel(job, elsewhere, in_place=True), silent, lambda: False).end
    assert end.kind == "refused" and f"expected the folder {tmp_path / 'elsewhere'}" in end.text
    assert not (tmp_path / "elsewhere").exists()


def test_locks_that_are_granted_twice_are_refused(
    presence: Presence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert "found one that was granted twice" in look(Site.of(presence), [job.spec]).wrong


def test_records_that_cannot_be_written_end_the_command(
    presence: Presence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    depot = Depot(Site.of(presence), in_place=False)
    depot.pack(job)
    monkeypatch.setattr(remote, "write_files", full)
    end = depot.take_in(job, Returned(WorkerEvent("recorded", state="finished"), record=(b"", b"")))
    assert (end.kind, end.text.rpartition(": ")[2]) == ("cannot_write", "No space left on device")
    with lock_of(job.folder, job.spec.key):
        pass


def test_progress_is_said_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = [10.0], list[int]()
    monkeypatch.setattr("benchmarks.harness.remote.time.monotonic", lambda: clock[0])
    tell = Seldom(lambda event: said.append(event.step))
    for step, clock[0] in enumerate((10.0, 10.1, 10.4, 10.5, 10.9, 11.2)):
        tell(WorkerEvent("progress", step))
    assert said == [0, 3, 5]


def test_the_tail_of_a_log_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(["first", "second", "", "  third   word", "fourth"]) + "\n")
    assert tail([str(tmp_path / "none"), str(tmp_path / "log")]) == "second / third word / fourth"
    (tmp_path / "log").write_text("x" * 10_000)
    assert tail([str(tmp_path / "log")]) == "x" * remote.TAIL_LETTERS
