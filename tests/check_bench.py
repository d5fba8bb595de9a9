"""A suite with its baseline, and the command ``check`` on it."""

from __future__ import annotations

import json
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
        return self.folder / "results" / "reference"

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


@pytest.fixture
def check_bench(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> CheckBench:
    """Few methods and no small runs, so that the replays are quick; a commit whose files are as committed."""
    monkeypatch.setattr(regression, "names", lambda: METHODS)
    monkeypatch.setattr(golden_runs, "SMALL", {})
    monkeypatch.setattr(provenance, "commit", lambda: COMMIT)
    # The fingerprints of made-up records are made up too.
    monkeypatch.setattr(check, "check_beginnings", lambda *_: [])
    regression_runs.suite(tmp_path, weighters=METHODS)
    made = CheckBench(tmp_path, bench, monkeypatch)
    write_baseline(made)
    golden_weights.record(made.baseline, [*METHODS, "random"], COMMIT)
    return made


def write_baseline(check_bench: CheckBench, **changes: Any) -> Path:
    runs = [regression_runs.run(spec, "mine", **changes) for spec in regression_runs.plan(Path(check_bench.suite)).runs]
    return regression_runs.write(check_bench.baseline / "mine", runs)
