"""File systems that have no locks: a run is held by one process, and a holder that is gone is noticed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import filelock
import pytest
from commands_at_work import (
    LONG,
    descendants,
    everywhere,
    finish,
    gone,
    in_process,
    jobs_of,
    runs_of,
    start,
    traced,
    wait_until,
)
from places import ROOT
from suites import suite_file

from benchmarks.harness.worker import Job
from benchmarks.records import locks
from benchmarks.records.locks import lock_of

WITHOUT_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture(params=WITHOUT_LOCKS, ids=errno.errorcode.get)
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return int(request.param)


def no_locks_anywhere(folder: Path, number: int) -> dict[str, str]:
    return everywhere(
        folder,
        f"""
        import fcntl, os
        def refuse(*_):
            raise OSError({number}, os.strerror({number}))
        fcntl.flock = refuse
        """,
    )


def test_a_run_is_held_by_one_without_locks_too(no_locks: int, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    with lock_of(job.folder, job.spec.key):
        with pytest.raises(filelock.Timeout), lock_of(job.folder, job.spec.key):
            pass
        assert not locks.is_free(lock_of(job.folder, job.spec.key))
        assert in_process(job).kind == "busy"
    assert in_process(job).kind == "recorded"


def lease_of(job: Job) -> Path:
    return job.folder / "unfinished" / f"{job.spec.key}.lease"


@pytest.mark.slow
def test_a_holder_that_was_killed_is_noticed_at_once(no_locks: int, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    code = f"""
    import fcntl, os, pathlib, signal
    def refuse(*_):
        raise OSError({no_locks}, "")
    fcntl.flock = refuse
    from benchmarks.records.locks import lock_of
    with lock_of(pathlib.Path({str(job.folder)!r}), {job.spec.key!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    """
    holder = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=False)
    assert holder.returncode == -signal.SIGKILL
    assert lease_of(job).exists()
    assert in_process(job).kind == "recorded"


def test_a_holder_on_another_host_counts_as_gone_when_it_is_silent(
    no_locks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        with lock_of(job.folder, job.spec.key):
            left_behind = lease_of(job).read_bytes()
    assert b"host=elsewhere" in left_behind
    lease_of(job).write_bytes(left_behind)
    looked = lock_of(job.folder, job.spec.key)
    assert not locks.is_free(looked)
    clock = [0.0]
    monkeypatch.setattr("filelock._soft.time.monotonic", lambda: clock[0])
    looked = lock_of(job.folder, job.spec.key)
    for clock[0], free in ((1.0, False), (locks.LEASE_SECONDS, False), (locks.LEASE_SECONDS + 2, True)):
        assert locks.is_free(looked) == free


def test_a_lease_that_was_never_written_is_no_holder(no_locks: int, tmp_path: Path) -> None:
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    lease_of(job).parent.mkdir(parents=True)
    lease_of(job).touch()
    with pytest.raises(filelock.Timeout), lock_of(job.folder, job.spec.key):
        pass
    long_ago = lease_of(job).stat().st_mtime - 2 * locks.LEASE_SECONDS
    os.utime(lease_of(job), (long_ago, long_ago))
    with lock_of(job.folder, job.spec.key):
        pass


@pytest.mark.slow
def test_two_commands_without_locks_share_the_work(tmp_path: Path) -> None:
    suite = suite_file(tmp_path)
    more = no_locks_anywhere(tmp_path, errno.ENOSYS)
    processes = [start(suite, "--weighters", "uniform,random", sleep=0.02, more=more) for _ in range(2)]
    results = [finish(process) for process in processes]
    assert [(code, stderr) for code, _, stderr in results] == [(0, ""), (0, "")]
    assert [run.record.state for run in runs_of(tmp_path / "out").values()] == ["finished"] * 2
    assert len(traced(suite)) == 2
    assert not list((tmp_path / "out" / "mine" / "unfinished").glob("*.lease"))


@pytest.mark.slow
def test_a_command_goes_on_where_one_was_killed_without_locks(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, training=LONG)
    more = no_locks_anywhere(tmp_path, errno.ENOLCK)
    process = start(suite, "--weighters", "uniform", sleep=0.02, more=more)
    wait_until(lambda: list((tmp_path / "out" / "mine" / "unfinished").glob("*.pt")), "a checkpoint")
    children = descendants(process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    wait_until(lambda: gone(children), "no process left")
    assert list((tmp_path / "out" / "mine" / "unfinished").glob("*.lease"))
    code, _, stderr = finish(start(suite, "--weighters", "uniform", more=more))
    assert (code, stderr) == (0, "")
    assert [run.record.resumed for run in runs_of(tmp_path / "out").values()] == [1]
