"""Runs that were trained at other times."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from places import TESTS
from suites import as_yaml

from benchmarks.cli import main as command_line
from benchmarks.records.storage import read_run, run_folders, write_run

OWN = f"{TESTS / 'tiny_problem.py'}:Tiny"


def suite(folder: Path, *weighters: str) -> Path:
    path = folder / "mine.yaml"
    content = {"seeds": [0, 1], "problems": [OWN], "weighters": ["uniform", *weighters]}
    path.write_text(as_yaml(content), encoding="utf-8")
    return path


def bench(path: Path, *more: str) -> int:
    places = ["--out", str(path.parent / "out"), "--plots", str(path.parent / "plots"), "--jobs", "1"]
    return command_line.main([str(path), *places, *more])


def made_older(path: Path, age: timedelta) -> None:
    """As if all had been trained that much earlier."""
    folder = path.parent / "out" / "mine"
    for place in run_folders(folder):
        found = read_run(place)
        times = {
            name: (datetime.fromisoformat(getattr(found.record, name)) - age).isoformat() for name in ("started", "ended")
        }
        write_run(folder / "runs", found.record.model_copy(update=times), found.trajectory)
