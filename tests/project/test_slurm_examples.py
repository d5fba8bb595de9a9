"""The array job really shares the work of a suite, with a stand-in for SLURM; both jobs are what a shell and SLURM read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import slurm_stand_in
from commands_at_work import LEARNERS, LONG, WAIT, assert_same_numbers, checkpoints, in_process, jobs_of, runs_of, traced
from places import ROOT
from suites import suite_file

SLURM = ROOT / "examples" / "slurm"
JOBS = ("array.sh", "ray.sh")


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_one_that_a_shell_reads(name: str) -> None:
    subprocess.run(["bash", "-n", str(SLURM / name)], check=True)


@pytest.mark.parametrize("name", JOBS)
def test_what_a_job_asks_for_stands_before_its_first_command(name: str) -> None:
    """SLURM reads no further."""
    lines = (SLURM / name).read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    asked = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(asked) > 5 and max(asked) < first
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", lines[number]) for number in asked)


def submit(suite: Path, *words: str, tasks: int, sleep: float) -> subprocess.Popen[str]:
    folder = suite.parent
    environment = {
        **os.environ,
        "PATH": slurm_stand_in.install(folder / "slurm"),
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "TINY_SLEEP": str(sleep),
        "TINY_TRACE": str(folder / "trace.txt"),
    }
    places = ["--out", str(folder / "out"), "--plots", str(folder / "plots")]
    # From a folder that has nothing but what the script takes from the checkout, since tasks leave files there.
    (folder / "run_bench.py").symlink_to(ROOT / "run_bench.py")
    command = ["sbatch", f"--array=0-{tasks - 1}", str(SLURM / "array.sh"), str(suite), *words, *places]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outputs(folder: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("slurm-*.out")))


@pytest.mark.slow
def test_tasks_of_an_array_share_the_runs_and_train_none_twice(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, seeds=[0, 1], weighters=["uniform", "random"])
    process = submit(suite, tasks=3, sleep=0.02)
    process.communicate(timeout=5 * WAIT)
    assert process.returncode == 0, outputs(tmp_path)
    runs = runs_of(tmp_path / "out")
    assert {run.record.state for run in runs.values()} == {"finished"}
    assert {run.record.resumed for run in runs.values()} == {0}
    assert len(traced(suite)) == len(runs) > 3
    # Whoever comes last reports.
    assert (tmp_path / "out" / "mine" / "report.md").exists()
    assert list((tmp_path / "out" / "mine" / "unfinished").glob("*.command")) == []


@pytest.mark.slow
def test_a_task_whose_time_is_over_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    whole = suite_file(tmp_path / "whole", training=LONG, weighters=LEARNERS)
    for job in jobs_of(whole, "coba"):
        in_process(job)
    suite = suite_file(tmp_path / "task", training=LONG, weighters=LEARNERS)
    process = submit(suite, "--weighters", "coba", tasks=1, sleep=0.03)
    end = time.monotonic() + 5 * WAIT
    while not checkpoints(suite.parent / "out") and time.monotonic() < end:
        time.sleep(0.05)
    (command,) = (each for each in psutil.Process(process.pid).children(recursive=True) if is_the_command(each))
    command.send_signal(signal.SIGTERM)
    process.communicate(timeout=5 * WAIT)
    assert process.returncode == 0, outputs(suite.parent)
    assert "the same command goes on from here" in outputs(suite.parent)
    runs = runs_of(suite.parent / "out")
    assert [run.record.resumed for run in runs.values()] == [1]
    assert_same_numbers(runs, runs_of(tmp_path / "whole" / "out"))


def is_the_command(process: psutil.Process) -> bool:
    return "run_bench.py" in process.cmdline()
