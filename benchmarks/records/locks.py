"""The lock that whoever trains a run holds: the system's, or a lease on file systems that have no locks.

Some network and FUSE file systems refuse ``flock``. There a file says who holds the lock (host, process, when that process
started) and is renewed while it is held. A holder that is gone is noticed at once on its own host, and by its silence of
``LEASE_SECONDS`` from any other. Neither is needed for a record to be whole, see ``storage.write_files``: a lock only keeps
two commands from training the same run twice.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from pathlib import Path

import filelock

LEASE_SECONDS = 60.0
"""How long the holder of a lease must have been silent to count as gone."""

NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What a file system says that has no locks."""


def lock_of(folder: Path, key: str) -> filelock.BaseFileLock:
    """The lock of a run in a suite's folder. Entering it raises ``filelock.Timeout`` where another process holds it.

    Whether the holder of a lease from another host is silent can only be told by who looks again with the same object.
    Raises OSError where the folder cannot be written.
    """
    locks = folder / "unfinished"
    locks.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=locks) as probe:
        if _can_be_locked(probe.fileno()):
            # ``fallback_to_soft``: filelock's own lock for this case never notices a holder on another host.
            return filelock.FileLock(locks / f"{key}.lock", timeout=0, fallback_to_soft=False)
        lease = locks / f"{key}.lease"
        _remove_if_never_written(lease, now=os.fstat(probe.fileno()).st_mtime)
    return filelock.SoftFileLease(lease, timeout=0, lease_duration=LEASE_SECONDS)


def is_free(lock: filelock.BaseFileLock) -> bool:
    """Whether nobody holds the lock at this moment; True also where that cannot be found out."""
    try:
        with lock:
            return True
    except filelock.Timeout:
        return False
    except OSError:
        return True


def _can_be_locked(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


def _remove_if_never_written(lease: Path, now: float) -> None:
    """Remove an empty lease: its holder died between making and writing it. now: by the clock of the file system."""
    with contextlib.suppress(OSError):
        found = lease.stat()
        if found.st_size == 0 and now - found.st_mtime > LEASE_SECONDS:
            lease.unlink()
