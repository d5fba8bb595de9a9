"""A suite with its baseline, and the command ``check`` on it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import regression_runs
from command_line import Bench, Said

from benchmarks.cli import regression
from benchmarks.records import provenance
from benchmarks.regression import check, golden_runs, golden_weights

METHODS = ["uniform", "famo", "coba"]
COMMIT = "0123456789ab"
BASELINE = Path("results") / "reference"


@dataclass
class CheckBench:
    """A suite with its baseline, and the command on it."""

    folder: Path
    bench: Bench
    monkeypatch: pytest.MonkeyPatch

    @property
    def suite(self) -> str:
        return str(self.folder / "mine.yaml")

    @property
    def baseline(self) -> Path:
        return self.folder / BASELINE

    @property
    def out(self) -> Path:
        return self.folder / "new"

    def check(self, *more: str, out: Path | None = None, **training: Any) -> Said:
        self.monkeypatch.setattr(regression, "execute", regression_runs.trainer(**training))
        places = {"--against": self.baseline, "--out": out or self.out, "--plots": self.folder / "plots"}
        return self.bench("check", self.suite, *(str(word) for pair in places.items() for word in pair), *more)

    def entries(self) -> list[dict[str, Any]]:
        files = sorted((self.folder / "results" / "history").glob("*.json"))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def simplify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few methods and no small runs, so that the replays are quick; a commit whose files are as committed."""
    monkeypatch.setattr(regression, "names", lambda: METHODS)
    monkeypatch.setattr(golden_runs, "SMALL", {})
    monkeypatch.setattr(provenance, "commit", lambda: COMMIT)
    # The fingerprints of made-up records are made up too.
    monkeypatch.setattr(check, "check_beginnings", lambda *_: [])


def record(folder: Path) -> Path:
    """The suite and its baseline, in a folder to be copied from."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        simplify(monkeypatch)
        path = regression_runs.suite(folder, weighters=METHODS)
        reference = folder / BASELINE
        runs = [regression_runs.run(spec, "mine") for spec in regression_runs.plan(path).runs]
        regression_runs.write(reference / "mine", runs)
        golden_weights.record(reference, [*METHODS, "random"], COMMIT)
    return folder


def copy(recorded: Path, folder: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> CheckBench:
    """What was recorded, in a folder of its own."""
    simplify(monkeypatch)
    shutil.copytree(recorded, folder, dirs_exist_ok=True)
    return CheckBench(folder, bench, monkeypatch)
