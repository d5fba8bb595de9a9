"""Disks that are full at some level, cannot be written, or lose the folder of results: one line, and it goes on after."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from command_line import train
from commands_at_work import assert_same_numbers, checkpoints, ended, in_process, jobs_of, runs_of, start
from figures import Figures
from suites import suite_file

from benchmarks.records import files, storage
from benchmarks.records.schema import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

SIZE = 2**20
CHANGES = {"training": {"steps": 40, "log_every": 4}, "weighters": ["uniform", "random"]}
ONLY = ("--weighters", "uniform,random")
NEEDED = 120_000
"""Bytes of a disk on which the suite is trained and reported for certain."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, Run]:
    suite = suite_file(tmp_path / "undisturbed", **CHANGES)
    for job in jobs_of(suite, *ONLY[1].split(",")):
        in_process(job)
    return runs_of(suite.parent / "out")


def fill(disk: Path, room: int) -> Path:
    """Leave so many bytes."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    ballast.write_bytes(b"x" * max(0, free - room))
    return ballast


def test_a_disk_that_is_full_at_any_level(
    disk: Path,
    undisturbed: dict[str, Run],
    figures: Figures,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    levels = max(3, request.config.getoption("faults") // 800)
    draw = random.Random(levels)
    ends: dict[int, int] = {0: 0, 3: 0}
    for room in sorted(draw.sample(range(0, NEEDED, 4096), levels)):
        suite = suite_file(disk / "it", **CHANGES)
        ballast = fill(disk, room)
        capfd.readouterr()
        code = train(suite, *ONLY)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        assert code in ends, (room, code, said)
        if code == 3:
            assert said.startswith("error: ") and said.count("\n") == 1, (room, said)
            assert said.endswith("No space left on device; everything that was finished is kept\n"), (room, said)
        ends[code] += 1
        ballast.unlink()
        assert train(suite, *ONLY) == 0
        assert_same_numbers(runs_of(suite.parent / "out"), undisturbed)
        shutil.rmtree(suite.parent)
    assert ends[3] > 0
    figures.add("Full disks", {"levels": levels, "exit 3": ends[3], "there was room": ends[0], "complete after": levels})


def test_a_disk_that_cannot_be_written(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    suite = suite_file(disk / "it", **CHANGES)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code = train(suite, *ONLY)
    said = capfd.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("error: ") and "Read-only file system" in said
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert train(suite, *ONLY) == 0


def refused(after: int, write: Callable[..., object]) -> Callable[..., object]:
    """As ``write``, until the user has written so much."""
    written = 0

    def over_quota(*arguments: object) -> object:
        nonlocal written
        written += 1
        if written > after:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(arguments[0]))
        return write(*arguments)

    return over_quota


@pytest.mark.parametrize(("module", "name", "after"), [(files, "write", 0), (storage, "write_files", 1)])
def test_a_user_whose_quota_is_used_up(
    module: ModuleType,
    name: str,
    after: int,
    tmp_path: Path,
    undisturbed: dict[str, Run],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    suite = suite_file(tmp_path / "it", **CHANGES)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, refused(after, getattr(module, name)))
        code = train(suite, *ONLY)
    said = capfd.readouterr().err
    assert (code, said.count("\n")) == (3, 1)
    assert said.endswith("Disk quota exceeded; everything that was finished is kept\n")
    assert len(runs_of(suite.parent / "out")) == after
    assert train(suite, *ONLY) == 0
    assert_same_numbers(runs_of(suite.parent / "out"), undisturbed)


def test_a_folder_of_results_that_is_removed_while_runs_train(tmp_path: Path, undisturbed: dict[str, Run]) -> None:
    suite = suite_file(tmp_path / "it", **CHANGES)
    process = start(suite, *ONLY, sleep=0.02)
    while not checkpoints(suite.parent / "out"):
        assert process.poll() is None
        time.sleep(0.02)
    shutil.rmtree(suite.parent / "out", ignore_errors=True)
    code, stdout, stderr = ended(process)
    assert "Traceback" not in stdout + stderr
    assert code in (0, 3) and stderr.count("\n") == (code == 3), stderr
    assert train(suite, *ONLY) == 0
    assert_same_numbers(runs_of(suite.parent / "out"), undisturbed)
