"""Runs that were trained at other times."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.records.storage import read_run, run_folders, write_run


def made_older(path: Path, age: timedelta) -> None:
    """As if all runs of a suite file had been trained that much earlier."""
    folder = path.parent / "out" / "mine"
    for place in run_folders(folder):
        found = read_run(place)
        times = {
            name: (datetime.fromisoformat(getattr(found.record, name)) - age).isoformat() for name in ("started", "ended")
        }
        write_run(folder / "runs", found.record.model_copy(update=times), found.trajectory)
