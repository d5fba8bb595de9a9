"""Commands at work on one folder notice where its locks do not hold, and are not misled by those that were killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands_at_work import everywhere, finish, start, wait_until
from suites import suite_file

from benchmarks.errors import StorageError, UserError
from benchmarks.records import presence, provenance
from benchmarks.records.presence import Presence, is_seen, lock_holds


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[Presence]:
    with contextlib.closing(Presence(tmp_path)) as found:
        yield found


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "unfinished").iterdir())


def left_behind(folder: Path, host: str, process: int) -> Path:
    """What a command says that was killed."""
    path = folder / "unfinished" / "0123456789abcdef.command"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"0123456789abcdef {host} {process} 1.5 7")
    return path


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_commands_see_each_other_and_leave_nothing(tmp_path: Path) -> None:
    with contextlib.closing(Presence(tmp_path)) as first, contextlib.closing(Presence(tmp_path)) as second:
        for one, other in ((first, second), (second, first)):
            one.check_others()
            assert is_seen(tmp_path, other.name)
            assert lock_holds(tmp_path, other.name)
    assert not is_seen(tmp_path, first.name)
    assert left(tmp_path) == []


def test_locks_that_are_granted_to_everybody_are_refused(at_work: Presence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with contextlib.closing(Presence(at_work.folder)) as second, pytest.raises(UserError, match="granted twice"):
        second.check_others()


def test_a_command_that_was_killed_on_this_machine_is_forgotten_at_once(at_work: Presence) -> None:
    path = left_behind(at_work.folder, provenance.host(), a_dead_process())
    at_work.check_others()
    assert not path.exists()
    # The number may be another process's by now.
    left_behind(at_work.folder, provenance.host(), os.getpid())
    at_work.check_others()
    assert not path.exists()


def test_a_command_on_another_machine_counts_as_gone_when_it_is_silent(
    at_work: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.02)
    path = left_behind(at_work.folder, "elsewhere", os.getpid())
    at_work.check_others()
    assert not path.exists()


def test_a_command_on_another_machine_whose_lock_is_granted_here_is_noticed(
    at_work: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ended = left_behind(at_work.folder, "elsewhere", os.getpid()), threading.Event()

    def beat() -> None:
        for number in range(10_000):
            # As a whole, as the command itself does it.
            path.with_suffix(".new").write_text(f"0123456789abcdef elsewhere 1 1.5 {number}")
            path.with_suffix(".new").replace(path)
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"expected locks in .* that hold between processes and machines"):
            at_work.check_others()
    finally:
        ended.set()
        thread.join()


def test_a_command_that_ends_while_it_is_looked_at_is_no_fault(at_work: Presence, monkeypatch: pytest.MonkeyPatch) -> None:
    path = left_behind(at_work.folder, "elsewhere", os.getpid())
    monkeypatch.setattr("benchmarks.records.presence.time.sleep", lambda _: path.unlink(missing_ok=True))
    at_work.check_others()
    assert not path.exists()


def test_half_a_word_is_no_command(at_work: Presence) -> None:
    path = left_behind(at_work.folder, "elsewhere", 1)
    path.write_text("0123")
    at_work.check_others()
    assert not path.exists()


def test_a_command_beats_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.02)
    with contextlib.closing(Presence(tmp_path)) as at_work:
        (path,) = (tmp_path / "unfinished").glob("*.command")
        first = path.read_text()
        wait_until(lambda: path.read_text() != first, "a beat")
        assert is_seen(tmp_path, at_work.name)
    assert not is_seen(tmp_path, at_work.name)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"cannot write {tmp_path / 'file'}"):
        Presence(tmp_path / "file")


@pytest.mark.slow
def test_a_command_whose_locks_are_not_those_of_others_refuses(tmp_path: Path) -> None:
    suite = suite_file(tmp_path)
    more = everywhere(tmp_path, "import fcntl\nfcntl.flock = lambda *_: None\n")
    with contextlib.closing(Presence(tmp_path / "out" / "mine")):
        code, _, stderr = finish(start(suite, "--weighters", "uniform", more=more))
    assert code == 2
    assert stderr.startswith("error: expected locks in ") and stderr.count("\n") == 1
    assert not (tmp_path / "out" / "mine" / "runs").exists()
