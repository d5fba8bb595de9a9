"""What a command's neighbours do to it: the fork server is killed, a file system has no locks, two write the same record,
signals arrive before anything has begun, a disk is full. Each ends in a row or one line, and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import psutil
import pytest
from commands_at_work import (
    LONG,
    Ear,
    command,
    descendants,
    environment,
    finish,
    gone,
    in_process,
    jobs_of,
    numbers,
    runs_of,
    start,
    traced,
    wait_until,
    write_suite,
)
from places import ROOT

from benchmarks.harness import checkpoint, dispatcher, processes
from benchmarks.harness.interrupts import SIGNALS
from benchmarks.harness.local import work
from benchmarks.harness.worker import Job
from benchmarks.records import locks
from benchmarks.records.locks import lock_of
from benchmarks.records.storage import RUN_FILE, read_run, remove_leftovers, run_folder, set_aside, write_run

EXIT = {number: 128 + number for number in SIGNALS}


@pytest.fixture(autouse=True)
def _keep_signals() -> Iterator[None]:
    """A worker sets its own handlers; here it is no process of its own."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# ---- the fork server -------------------------------------------------------------------------------------------------


def servers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes from which the command's workers are forked; those of them that are alive."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if not gone([child]) and "forkserver" in " ".join(child.cmdline())]


def kill_server(process: subprocess.Popen[str]) -> None:
    wait_until(lambda: servers(process), "a fork server")
    (server,) = servers(process)
    server.kill()
    wait_until(lambda: gone([server]), "the end of the fork server")


def lines_of_runs(stdout: str, state: str) -> int:
    return sum(line.startswith(state) for line in stdout.splitlines())


def test_the_fork_server_is_killed_while_runs_train_and_others_wait(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, seeds=[0, 1, 2], training={"steps": 30}, weighters=["uniform"])
    process = start(suite, "--weighters", "uniform", sleep=0.02)
    wait_until(lambda: (tmp_path / "trace.txt").exists() and len(traced(suite)) == 2, "two runs in training")
    kill_server(process)
    code, stdout, stderr = finish(process)
    assert code == 0
    (warning,) = stderr.splitlines()
    assert warning.startswith("warning: the process from which runs are started was killed, perhaps for lack of memory")
    runs = runs_of(tmp_path / "out")
    assert [run.record.state for run in runs.values()] == ["finished"] * 3
    assert lines_of_runs(stdout, "finished") == 3
    assert len(traced(suite)) == 3


def test_the_fork_server_is_killed_while_it_loads_and_again(tmp_path: Path) -> None:
    """Before it can fork anything: a start that was asked for fails, and is asked for again."""
    suite = write_suite(tmp_path)
    process = start(suite, "--weighters", "uniform")
    kill_server(process)
    wait_until(lambda: process.poll() is not None or servers(process), "another fork server")
    kill_server(process)
    code, _, stderr = finish(process)
    assert code == 0
    assert stderr.count("\n") == 1
    assert "was killed 2 times" in stderr
    assert [run.record.state for run in runs_of(tmp_path / "out").values()] == ["finished"]


def test_a_server_that_is_always_killed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
    asked: list[object] = []

    def killed(*_: Any) -> Any:
        asked.append(1)
        raise EOFError("unexpected EOF")

    monkeypatch.setattr(processes.ProcessStarter, "_start", killed)
    monkeypatch.setattr(processes.ProcessStarter, "_wait_for_its_end", lambda self: None)
    outcome = dispatcher.execute(job.folder, "mine", [job.spec], jobs=1, device="cpu")
    assert len(asked) == processes.ATTEMPTS
    (row,) = outcome.recorded
    assert (row.state, row.reason.partition(",")[0]) == ("crashed", "no process could be started for it")
    record = read_run(run_folder(job.folder, job.spec.key)).record
    assert (record.state, record.reason) == ("crashed", row.reason)


def test_server_and_workers_killed_together_are_rows(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, training={"steps": 400}, weighters=["uniform"])
    process = start(suite, "--weighters", "uniform,random", sleep=0.02)
    wait_until(lambda: (tmp_path / "trace.txt").exists() and len(traced(suite)) == 2, "two runs in training")
    workers = [int(line.split()[0]) for line in traced(suite)]
    for victim in (*servers(process), *map(psutil.Process, workers)):
        victim.kill()
    code, stdout, stderr = finish(process)
    assert code == 1
    assert stderr.splitlines()[-1].startswith("error: 2 of 2 runs did not finish; the first: ")
    assert "Traceback" not in stdout + stderr
    found = runs_of(tmp_path / "out")
    assert [run.record.state for run in found.values()] == ["crashed"] * 2
    assert all("its process ended" in (run.record.reason or "") for run in found.values())


def test_ctrl_c_stops_workers_whose_server_was_killed(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, training={"steps": 100_000}, weighters=["uniform"])
    process = start(suite, "--weighters", "uniform,random", sleep=0.02)
    wait_until(lambda: (tmp_path / "trace.txt").exists() and len(traced(suite)) == 2, "two runs in training")
    children = descendants(process)
    kill_server(process)
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = finish(process)
    assert code == 130
    assert "stopped: 0 of 2 runs are recorded" in stdout
    assert "Traceback" not in stderr
    wait_until(lambda: gone(children), "no process left")


def test_what_a_worker_recorded_before_it_was_killed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its record and its word to the parent."""
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
    in_process(job)
    there = dispatcher._Dispatcher([job], dispatcher.PlanResult(), 1, wait=True)
    there._give_up(job, "its process was ended by SIGKILL")
    assert [row.state for row in there.result.recorded] == ["finished"]
    assert read_run(run_folder(job.folder, job.spec.key)).record.state == "finished"


# ---- file systems without locks --------------------------------------------------------------------------------------

WITHOUT_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture(params=WITHOUT_LOCKS, ids=errno.errorcode.get)
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return int(request.param)


def everywhere(folder: Path, code: str) -> dict[str, str]:
    """The environment of a command in which every process runs this code before anything else."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(textwrap.dedent(code), encoding="utf-8")
    return {"PYTHONPATH": str(folder / "site")}


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
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
    with lock_of(job.folder, job.spec.key):
        with pytest.raises(filelock.Timeout), lock_of(job.folder, job.spec.key):
            pass
        assert not locks.is_free(lock_of(job.folder, job.spec.key))
        assert in_process(job).kind == "busy"
    assert in_process(job).kind == "recorded"


def lease_of(job: Job) -> Path:
    return job.folder / "unfinished" / f"{job.spec.key}.lease"


def test_a_holder_that_was_killed_is_noticed_at_once(no_locks: int, tmp_path: Path) -> None:
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
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
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
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
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
    lease_of(job).parent.mkdir(parents=True)
    lease_of(job).touch()
    with pytest.raises(filelock.Timeout), lock_of(job.folder, job.spec.key):
        pass
    long_ago = lease_of(job).stat().st_mtime - 2 * locks.LEASE_SECONDS
    os.utime(lease_of(job), (long_ago, long_ago))
    with lock_of(job.folder, job.spec.key):
        pass


def test_two_commands_without_locks_share_the_work(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    more = no_locks_anywhere(tmp_path, errno.ENOSYS)
    processes = [start(suite, "--weighters", "uniform,random", sleep=0.02, more=more) for _ in range(2)]
    results = [finish(process) for process in processes]
    assert [(code, stderr) for code, _, stderr in results] == [(0, ""), (0, "")]
    assert [run.record.state for run in runs_of(tmp_path / "out").values()] == ["finished"] * 2
    assert len(traced(suite)) == 2
    assert not list((tmp_path / "out" / "mine" / "unfinished").glob("*.lease"))


def test_a_command_goes_on_where_one_was_killed_without_locks(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, training=LONG)
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


# ---- two writers -----------------------------------------------------------------------------------------------------


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
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
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
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
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
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
    in_process(job)
    place = run_folder(job.folder, job.spec.key)
    (place / RUN_FILE).write_text("{")
    raised: list[Any] = at_once(4, lambda _: set_aside(place, "damaged"))
    assert {type(error) for error in raised} <= {FileNotFoundError}
    assert not place.exists()


def test_workers_without_any_lock_end_with_one_record_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that grant every lock to everybody: the second trains and records what the first is about to."""
    (job,) = jobs_of(write_suite(tmp_path), "uniform")
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


# ---- signals at any time ---------------------------------------------------------------------------------------------


def held_at(folder: Path, module: str) -> dict[str, str]:
    """The environment of a command that stops where it begins to import a module, and says so with a file."""
    return everywhere(
        folder,
        f"""
        import pathlib, sys, threading
        class Finder:
            def find_spec(self, name, *_):
                if name == {module!r} and "run_bench.py" in " ".join(sys.argv):
                    pathlib.Path({str(folder / "reached")!r}).touch()
                    # A lock that nobody will free; signals are handled meanwhile.
                    lock = threading.Lock()
                    lock.acquire()
                    lock.acquire(timeout=120)
        sys.meta_path.insert(0, Finder())
        """,
    )


def default_signals() -> None:
    """As a shell starts a command, whatever this process ignores."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("benchmarks.cli.commands", signal.SIGINT),
        ("torch", signal.SIGTERM),
        ("pandas", signal.SIGHUP),
        ("benchmarks.planning.follow_up", signal.SIGINT),
    ],
)
def test_a_signal_while_modules_are_loaded_is_one_line(module: str, number: signal.Signals, tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    process = start(suite, more=held_at(tmp_path, module), preexec_fn=default_signals)
    wait_until(lambda: (tmp_path / "reached").exists() or process.poll() is not None, "the import")
    process.send_signal(number)
    assert finish(process) == (EXIT[number], "", "interrupted\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("group", "number"), [(True, signal.SIGINT), (False, signal.SIGTERM), (False, signal.SIGHUP)], ids=str
)
def test_a_signal_while_runs_train(group: bool, number: signal.Signals, tmp_path: Path) -> None:
    suite = write_suite(tmp_path, training={"steps": 100_000})
    process = start(suite, "--weighters", "uniform", sleep=0.02, preexec_fn=default_signals)
    wait_until(lambda: list((tmp_path / "out" / "mine" / "unfinished").glob("*.pt")), "a checkpoint")
    children = descendants(process)
    os.killpg(process.pid, number) if group else process.send_signal(number)
    code, stdout, stderr = finish(process)
    assert (code, stderr) == (EXIT[number], "")
    assert "stopped: 0 of 1 runs are recorded; the same command goes on from here:" in stdout
    wait_until(lambda: gone(children), "no process left")


def test_ctrl_c_to_all_while_the_fork_server_loads(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    process = start(suite, "--weighters", "uniform", preexec_fn=default_signals)
    wait_until(lambda: servers(process), "a fork server")
    children = descendants(process)
    os.killpg(process.pid, signal.SIGINT)
    code, stdout, stderr = finish(process)
    assert (code, stderr) == (EXIT[signal.SIGINT], "")
    assert "stopped: 0 of 1 runs are recorded" in stdout
    wait_until(lambda: gone(children), "no process left")


def test_a_signal_while_the_report_is_written(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    for job in jobs_of(suite, "uniform"):
        in_process(job)
    process = start(suite, "--weighters", "uniform", more=held_at(tmp_path, "matplotlib"), preexec_fn=default_signals)
    wait_until(lambda: (tmp_path / "reached").exists() or process.poll() is not None, "the report")
    process.send_signal(signal.SIGTERM)
    code, _, stderr = finish(process)
    assert (code, stderr) == (EXIT[signal.SIGTERM], "interrupted\n")
    assert len(runs_of(tmp_path / "out")) == 1
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_hang_up_that_is_to_be_ignored_is(tmp_path: Path) -> None:
    """``nohup``."""
    suite = write_suite(tmp_path, training=LONG)
    process = start(suite, "--weighters", "uniform", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until(lambda: servers(process), "a fork server")
    os.killpg(process.pid, signal.SIGHUP)
    code, _, stderr = finish(process)
    assert (code, stderr) == (0, "")


# ---- output on a full disk -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("more", [("--dry-run",), ()], ids=["plan", "run"])
def test_output_into_a_full_file_is_one_line(more: tuple[str, ...], tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device, as the shell opens it
        done = subprocess.run(
            command(suite, "--weighters", "uniform", *more),
            env=environment(tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    line = "error: the output: No space left on device; everything that was finished is kept\n"
    assert (done.returncode, done.stderr) == (3, line)
