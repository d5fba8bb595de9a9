"""Packing that is killed, on a full disk, while others pack, train or read: nothing is lost and nothing stops half-way."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make, toy, write_suite
from packed_runs import all_runs, assert_same, without_locks

from benchmarks.cli import main as command_line
from benchmarks.errors import StorageError
from benchmarks.records import packing
from benchmarks.records.locks import lock_of
from benchmarks.records.packed import LINES_FILE, Packed
from benchmarks.records.packing import pack_runs, unpack_runs
from benchmarks.records.reading import read_all, read_one
from benchmarks.records.schema import Run
from benchmarks.records.storage import (
    run_folder,
    run_folders,
    write_run,
)

pytestmark = pytest.mark.slow


class KilledError(BaseException):
    """Nothing that was to come happens any more, clean-up included."""


class Killing:
    """Kills at the n-th change of the file system, as seen by Python's audit events."""

    CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")

    def __init__(self) -> None:
        self.left = 0
        self.folder = Path("nowhere")
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wxa"
        if self.left and (writes or event in self.CHANGES) and str(self.folder) in str(arguments[0]):
            self.left -= self.left > 1
            if self.left == 1:
                raise KilledError

    @contextlib.contextmanager
    def at(self, number: int, folder: Path) -> Iterator[None]:
        self.left, self.folder = number + 1, folder
        try:
            yield
        finally:
            self.left = 0


@pytest.fixture(scope="module")
def killing() -> Killing:
    return Killing()


@pytest.mark.parametrize("into", ["pack", "pack more", "unpack"])
def test_killed_at_any_moment_nothing_is_lost(into: str, tmp_path: Path, killing: Killing) -> None:
    runs = [make("uniform", 0), make("uniform", 1), toy("famo")]
    start = write_suite(tmp_path / "start" / "fake", runs[:2] if into == "pack more" else runs)
    if into != "pack":
        pack_runs(start)
    if into == "pack more":
        # One that is new, and one that was recorded anew.
        write_suite(start, [runs[2], Run(runs[0].record.model_copy(update={"resumed": 1}), runs[0].trajectory)])
    carry_out = unpack_runs if into == "unpack" else pack_runs
    expected = all_runs(start)
    stops = 0
    while True:
        folder = tmp_path / str(stops) / "fake"
        shutil.copytree(start, folder)
        try:
            with killing.at(stops + 1, folder):
                carry_out(folder)
            break
        except KilledError:
            stops += 1
        assert_same(all_runs(folder), expected)
        carry_out(folder)
        assert_same(all_runs(folder), expected)
        assert len(list(run_folders(folder))) == (len(runs) if into == "unpack" else 0)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        shutil.rmtree(folder)
    assert stops > 15


@pytest.mark.parametrize("carry_out", [pack_runs, unpack_runs])
def test_a_full_disk_is_one_line_and_changes_nothing(
    carry_out: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_suite(tmp_path / "fake", [make("uniform", 0), make("uniform", 1)])
    if carry_out is unpack_runs:
        pack_runs(folder)
    expected, before = all_runs(folder), without_locks(folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"^cannot write .*fake: No space left on device$"):
        carry_out(folder)
    assert without_locks(folder) == before
    assert_same(all_runs(folder), expected)


def test_two_commands_at_once_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_suite(tmp_path / "fake", [make("uniform")])
    with lock_of(folder, packing.LOCK):
        for command in ("pack", "unpack"):
            assert command_line.main([command, str(tmp_path)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line == f"error: {folder}: expected no other command that packs or unpacks it, found one"
    assert command_line.main(["pack", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "1 runs packed\n"
    assert command_line.main(["unpack", str(folder)]) == 0
    assert command_line.main(["pack", str(tmp_path / "nowhere")]) == 2


def test_what_somebody_trains_stays_as_it_is(tmp_path: Path) -> None:
    held, free = make("uniform", 0), make("uniform", 1)
    folder = write_suite(tmp_path / "fake", [held, free])
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "0123.pt").write_bytes(b"half")
    with lock_of(folder, held.record.key):
        told = pack_runs(folder)
        assert (told.changed, told.left) == (1, [f"{run_folder(folder, held.record.key)}: somebody trains it"])
        assert [place.name for place in run_folders(folder)] == [held.record.key]
    assert pack_runs(folder).changed == 1
    with lock_of(folder, held.record.key):
        told = unpack_runs(folder)
        assert (told.changed, len(told.left)) == (1, 1)
        assert (folder / LINES_FILE).exists()
        assert len(all_runs(folder)) == 2
    assert (unpack_runs(folder).changed, without_locks(folder)) == (1, ["runs"])
    assert (folder / "unfinished" / "0123.pt").read_bytes() == b"half"


def test_a_record_that_changes_while_it_is_packed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes the run and records it anew between its packing and the removal of its folder."""
    run = make("uniform")
    folder = write_suite(tmp_path / "fake", [run])
    newer = run.record.model_copy(update={"resumed": 3})
    remove = packing._remove

    def after_another(place: Path, content: bytes) -> None:
        write_run(folder / "runs", newer, run.trajectory)
        remove(place, content)

    monkeypatch.setattr(packing, "_remove", after_another)
    pack_runs(folder)
    assert read_one(folder, run.record.key).record.resumed == 3
    unpack_runs(folder)
    assert read_one(folder, run.record.key).record.resumed == 3


@pytest.mark.parametrize("carry_out", [pack_runs, unpack_runs])
def test_readers_go_on_while_runs_change_their_form(
    carry_out: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the moments at which a reader has looked and not yet read."""
    start = write_suite(tmp_path / "start", [make("uniform", seed) for seed in (0, 1)])
    if carry_out is unpack_runs:
        pack_runs(start)
    expected = all_runs(start)
    moments = [
        ("benchmarks.records.reading.run_folders", run_folders, False),
        ("benchmarks.records.reading.run_folders", run_folders, True),
        ("benchmarks.records.reading.Packed", Packed, False),
    ]
    for number in range(4):
        for name, original, before in moments:
            folder = tmp_path / f"{number} {name} {before}"
            shutil.copytree(start, folder)
            looks = iter(range(100))

            def look(
                place: Path,
                original: Any = original,
                looks: Iterator[int] = looks,
                stop: tuple[int, bool] = (number, before),
            ) -> Any:
                now = next(looks)
                if (now, True) == stop:
                    carry_out(place)
                found = original(place)
                found = list(found) if original is run_folders else found
                if (now, False) == stop:
                    carry_out(place)
                return found

            with monkeypatch.context() as patch:
                patch.setattr(name, look)
                found = read_all(folder)
                first = next(found)
                if number == 3:
                    carry_out(folder)
                rest = list(found)
            assert_same({run.record.key: run for run in (first, *rest) if isinstance(run, Run)}, expected)
            assert_same({key: read_one(folder, key) for key in expected}, expected)
