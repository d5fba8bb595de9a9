"""Two write the same record or checkpoint: one stays, whole, whatever lies in its place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands_at_work import Ear, in_process, jobs_of, numbers
from suites import suite_file

from benchmarks.harness import checkpoint
from benchmarks.harness.local import work
from benchmarks.records.locks import lock_of
from benchmarks.records.storage import RUN_FILE, read_run, remove_leftovers, run_folder, set_aside, write_run


def at_once(number: int, work: Callable[[int], object]) -> list[BaseException]:
    """Call from several threads that start together. Returns what they raised."""
    together, raised = threading.Barrier(number), list[BaseException]()

    def one(index: int) -> None:
        together.wait()
        try:
            work(index)
        except BaseException as error:  # noqa: BLE001 - told to the test, whatever it is
            raised.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_writers_of_the_same_record_leave_one_that_is_whole(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    in_process(job)
    place = run_folder(job.folder, job.spec.key)
    run = read_run(place)

    def write(index: int) -> None:
        for _ in range(25):
            write_run(place.parent, run.record.model_copy(update={"suite": f"writer {index}"}), run.trajectory)

    assert at_once(4, write) == []
    assert read_run(place).record.suite.startswith("writer ")
    assert [path.name for path in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("obstacle", ["file", "empty folder", "folder"])
def test_a_record_takes_the_place_of_whatever_is_there(obstacle: str, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    in_process(job)
    place = run_folder(job.folder, job.spec.key)
    run = read_run(place)
    place.rename(tmp_path / "before")
    if obstacle == "file":
        place.write_text("")
    else:
        place.mkdir()
        if obstacle == "folder":
            (place / "something").mkdir()
    write_run(place.parent, run.record, run.trajectory)
    assert numbers(read_run(place)) == numbers(run)
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_writers_of_the_same_checkpoint_do_not_disturb_each_other(tmp_path: Path) -> None:
    place = checkpoint.Checkpoint(tmp_path, "0123456789abcdef")

    def write(index: int) -> None:
        for _ in range(25):
            place.save({"index": index})

    assert at_once(4, write) == []
    assert [path.name for path in tmp_path.iterdir()] == ["0123456789abcdef.pt"]


def test_half_written_checkpoints_are_removed_unless_their_writer_lives(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    dead, alive = (tmp_path / "unfinished" / f"{key * 16}.abc.writing" for key in "ab")
    dead.touch()
    alive.touch()
    with lock_of(tmp_path, "b" * 16):
        remove_leftovers(tmp_path)
        assert (dead.exists(), alive.exists()) == (False, True)


def test_a_damaged_record_that_another_command_set_aside_is_no_error(tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    in_process(job)
    place = run_folder(job.folder, job.spec.key)
    (place / RUN_FILE).write_text("{")
    raised: list[Any] = at_once(4, lambda _: set_aside(place, "damaged"))
    assert {type(error) for error in raised} <= {FileNotFoundError}
    assert not place.exists()


def test_workers_without_any_lock_end_with_one_record_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that grant every lock to everybody: the second trains and records what the first is about to."""
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    monkeypatch.setattr("benchmarks.harness.worker.lock_of", lambda *_: threading.Lock())
    said: list[Any] = []

    class InBetween(Ear):
        def send(self, message: Any) -> None:
            super().send(message)
            if message.kind == "progress" and message.step == 10:
                said.append(in_process(job))

    ear = InBetween()
    work(job, ear)  # type: ignore[arg-type]
    assert [(message.kind, message.state) for message in (*said, ear.messages[-1])] == [("recorded", "finished")] * 2
    assert read_run(run_folder(job.folder, job.spec.key)).record.state == "finished"
