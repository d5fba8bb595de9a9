"""What is in a folder of runs, packed or not, and whether two hold the same."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.records.reading import read_all
from benchmarks.records.schema import Run


def contents(folder: Path) -> dict[str, bytes]:
    """Path below ``runs`` -> bytes."""
    runs = folder / "runs"
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in sorted(runs.rglob("*")) if path.is_file()}


def all_runs(folder: Path) -> dict[str, Run]:
    found = {}
    for run in read_all(folder):
        assert isinstance(run, Run), run
        found[run.record.key] = run
    return found


def assert_same(some: dict[str, Run], others: dict[str, Run]) -> None:
    assert some.keys() == others.keys()
    for key, run in some.items():
        assert run.record == others[key].record
        pd.testing.assert_frame_equal(run.trajectory, others[key].trajectory, check_exact=True)
        for name in run.trajectory.columns.drop("task"):
            assert run.trajectory[name].to_numpy().tobytes() == others[key].trajectory[name].to_numpy().tobytes()


def without_locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "unfinished")
