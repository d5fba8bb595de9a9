"""That a command is at work on a suite's folder: a file that says so, and a lock that the command holds meanwhile.

Whoever sees the file has to see that the lock is held. Where that is not so, the file system grants locks that do not hold
between processes or between machines (NFS mounted with ``nolock``, Lustre with ``localflock``), and two commands would train
the same runs. The one that comes second finds that out, and refuses.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from pathlib import Path

import filelock
import psutil

from benchmarks.errors import StorageError, UserError
from benchmarks.records import files, provenance
from benchmarks.records.locks import lock_of

BEAT_SECONDS = 2.0
"""A command that lives renews its file so often."""
SILENT_BEATS = 4
"""After so many beats without one it counts as gone."""
KIND = ".command"


class Presence:
    """Of this command, until it is closed. Raises StorageError where the folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder.resolve(), uuid.uuid4().hex[:16]
        self._ended = threading.Event()
        try:
            self._lock = lock_of(self.folder, self.name)
            # Before the file is there, so that nobody sees it without a lock.
            self._lock.acquire()
            self._say(0)
        except OSError as error:
            raise StorageError.of(error, self.folder) from error
        threading.Thread(target=self._beat, daemon=True).start()

    def close(self) -> None:
        """The command works on the folder no more."""
        self._ended.set()
        _forget(self.folder, self.name)
        self._lock.release()
        # Nobody else will ever want a lock of this name.
        _lock_file(self.folder, self.name).unlink(missing_ok=True)

    def check_others(self) -> None:
        """Raise UserError where another command lives whose lock is granted to this one."""
        for path in sorted((self.folder / "unfinished").glob(f"*{KIND}")):
            if path.stem != self.name:
                _check(self.folder, path.stem)

    def _say(self, beat: int) -> None:
        process = psutil.Process()
        words = (self.name, provenance.host(), process.pid, process.create_time(), beat)
        files.write(_file(self.folder, self.name), " ".join(map(str, words)))

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            with contextlib.suppress(OSError):
                self._say(beat)
                if self._ended.is_set():
                    # It was closed while this was written.
                    _forget(self.folder, self.name)


def is_seen(folder: Path, name: str) -> bool:
    """Whether the file of a command is to be seen in what is called so here."""
    return _words(folder, name)[:1] == [name]


def lock_holds(folder: Path, name: str) -> bool:
    """Whether the lock of a command that is at work is refused to this process. Raises OSError."""
    try:
        with lock_of(folder, name):
            return False
    except filelock.Timeout:
        return True


def refusal(folder: Path) -> str:
    """What to say where locks do not hold."""
    return (
        f"expected locks in {folder} that hold between processes and machines, found one that was granted twice; mount the "
        "file system with locks (NFS: without nolock, Lustre: with flock), or give each command a folder of its own by --out"
    )


def _check(folder: Path, name: str) -> None:
    try:
        if lock_holds(folder, name):
            return
    except OSError as error:
        raise StorageError.of(error, folder) from error
    if _lives(folder, name):
        raise UserError(refusal(folder))
    _forget(folder, name)
    _lock_file(folder, name).unlink(missing_ok=True)


def _lives(folder: Path, name: str) -> bool:
    """Whether a command is still at work: told by its process on this machine, by its beat from any other."""
    said = _words(folder, name)
    if len(said) < 5:
        return False
    if said[1] == provenance.host():
        return _is_process(int(said[2]), float(said[3])) and bool(_words(folder, name))
    end = time.monotonic() + SILENT_BEATS * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 2)
        if (now := _words(folder, name)) != said:
            # It has beaten, or it has ended and taken its file away.
            return bool(now)
    return False


def _is_process(number: int, created: float) -> bool:
    try:
        return abs(psutil.Process(number).create_time() - created) < 1
    except psutil.Error:
        return False


def _words(folder: Path, name: str) -> list[str]:
    try:
        return _file(folder, name).read_text(encoding="utf-8").split()
    except (OSError, UnicodeError):
        return []


def _file(folder: Path, name: str) -> Path:
    return folder / "unfinished" / f"{name}{KIND}"


def _lock_file(folder: Path, name: str) -> Path:
    return folder / "unfinished" / f"{name}.lock"


def _forget(folder: Path, name: str) -> None:
    with contextlib.suppress(OSError):
        _file(folder, name).unlink(missing_ok=True)
