"""A short comparison as a whole command, its report included, beside the same runs as loops written by hand: CPU seconds."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

PROBLEM = "multidigits"
METHODS = ("uniform", "dwa", "uncertainty", "gls", "famo", "gradnorm")
SEEDS, STEPS, ROUNDS = 5, 300, 3
AIM = 1.25
"""What the suite aims at, as a multiple of the hand-written loops."""
SAMPLE_SECONDS = 0.05
ROOT = Path(__file__).resolve().parents[2]


def short_runs() -> pd.DataFrame:
    """One row for each way: median CPU and wall seconds over rounds that take turns, and the ratio of the CPU seconds."""
    taken: dict[str, list[tuple[float, float]]] = {"by hand": [], "the command": []}
    for _ in range(ROUNDS):
        taken["by hand"].append(_cpu_and_wall(_by_hand()))
        with tempfile.TemporaryDirectory() as folder:
            taken["the command"].append(_cpu_and_wall(_command(Path(folder))))
    base = statistics.median(cpu for cpu, _ in taken["by hand"])
    return pd.DataFrame([_row(name, rounds, base) for name, rounds in taken.items()])


def _row(name: str, rounds: list[tuple[float, float]], base: float) -> dict[str, Any]:
    cpu, wall = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratio = round(cpu / base, 2)
    aim = AIM if name == "the command" else math.nan
    return {"runs": name, "CPU s": round(cpu, 1), "wall s": round(wall, 1), "CPU by hand = 1": ratio, "allowed": aim}


def _by_hand() -> list[str]:
    program = [sys.executable, "-m", "benchmarks.overhead.by_hand", PROBLEM, *METHODS]
    return [*program, "--seeds", str(SEEDS), "--steps", str(STEPS)]


def _command(folder: Path) -> list[str]:
    suite = {"seeds": list(range(SEEDS)), "problems": [PROBLEM], "weighters": list(METHODS)}
    (folder / "short.yaml").write_text(json.dumps(suite), encoding="utf-8")
    folders = ["--out", str(folder / "results"), "--plots", str(folder / "plots")]
    chosen = ["--weighters", ",".join(METHODS), "--steps", str(STEPS)]
    return [sys.executable, str(ROOT / "run_bench.py"), "run", str(folder / "short.yaml"), *chosen, *folders]


def _cpu_and_wall(command: list[str]) -> tuple[float, float]:
    """Of a command and all processes below it. Raises CalledProcessError if it fails.

    The largest of many samples: what a process has waited for is in its own account, and those that nobody waits for, as the
    server from which runs are forked, live about as long as the command.
    """
    started = time.perf_counter()
    program = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    largest = 0.0
    while program.poll() is None:
        largest = max(largest, sum(map(_cpu, [program, *_children(program)])))
        time.sleep(SAMPLE_SECONDS)
    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, command)
    return largest, time.perf_counter() - started


def _children(program: psutil.Process) -> list[psutil.Process]:
    try:
        return list(program.children(recursive=True))
    except psutil.Error:
        return []


def _cpu(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.Error:
        return 0.0
