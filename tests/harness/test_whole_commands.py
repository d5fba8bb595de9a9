"""Commands in processes of their own: killed and resumed, interrupted, two at once, failing runs, full disks."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from commands_at_work import (
    LEARNERS,
    LONG,
    ONLY,
    assert_same_numbers,
    call,
    checkpoints,
    command,
    descendants,
    environment,
    finish,
    gone,
    in_process,
    jobs_of,
    own,
    runs_of,
    start,
    traced,
    wait_until,
)
from suites import OWN, TINY, suite_file

from benchmarks.records.schema import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The long runs of the kill tests, trained at a stretch."""
    suite = suite_file(tmp_path_factory.mktemp("uninterrupted"), training=LONG, weighters=LEARNERS)
    for job in jobs_of(suite, *ONLY[1].split(",")):
        assert in_process(job).kind == "recorded"
    return runs_of(suite.parent / "out")


@pytest.fixture
def long(tmp_path: Path) -> Path:
    return suite_file(tmp_path, training=LONG, weighters=LEARNERS)


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
    suite = suite_file(tmp_path)
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
    suite = suite_file(tmp_path, problems=[TINY, killed], weighters=["uniform", own("Raises"), own("TurnsNaN")])
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


def test_a_full_disk_ends_the_command_and_keeps_what_is_finished(tmp_path: Path) -> None:
    suite = suite_file(tmp_path)
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("more", [("--dry-run",), ()], ids=["plan", "run"])
def test_output_into_a_full_file_is_one_line(more: tuple[str, ...], tmp_path: Path) -> None:
    suite = suite_file(tmp_path)
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
