"""Threads are part of a run: how many run at once, or what the caller's environment says, changes no number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from places import ROOT

from benchmarks import load, load_trajectories

pytestmark = pytest.mark.slow

SUITE = """
seeds: [0]
training: {steps: 60, evaluate_every: 20, log_every: 5}
problems: [multidigits]
weighters: [famo]
"""


def trained(folder: Path, *options: str, **environment: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and trajectories of the suite, by one command."""
    (folder / "small.yaml").write_text(SUITE)
    command = [sys.executable, str(ROOT / "run_bench.py"), "small.yaml", "--weighters", "uniform,famo", *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, **environment})
    runs = load(folder / "results").sort_values("key", ignore_index=True)
    return runs, load_trajectories(folder / "results").sort_values(["key", "step", "task"], ignore_index=True)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: nothing runs at once")
def test_jobs_and_environment_change_no_number(tmp_path: Path) -> None:
    ways = {"one": (("--jobs", "1"), {}), "two": (("--jobs", "2"), {}), "many": (("--jobs", "2"), {"OMP_NUM_THREADS": "4"})}
    found = {}
    for name, (options, environment) in ways.items():
        (tmp_path / name).mkdir()
        found[name] = trained(tmp_path / name, *options, **environment)
    runs, trajectories = found["one"]
    numbers = ["key", *(column for column in runs.columns if column.startswith(("test.", "validation.", "training.")))]
    assert set(runs["training.threads"]) == {1}
    for name in ("two", "many"):
        pd.testing.assert_frame_equal(found[name][0][numbers], runs[numbers], check_exact=True)
        pd.testing.assert_frame_equal(found[name][1], trajectories, check_exact=True)
