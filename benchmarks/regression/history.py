"""The history of checks: one small JSON file for each under ``history/`` beside the baseline's folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.records.files import write
from benchmarks.regression.gate_result import GateResult, State

FOLDER = "history"


class GateNumber(BaseModel):
    """What one gate said of one method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: str
    place: str
    method: str
    state: State
    value: float | None
    """See ``GateResult.value``; none where there is no finite number."""


class Entry(BaseModel):
    """One check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    suite: str
    commit: str | None
    date: str
    """ISO 8601, UTC."""
    against: tuple[str, ...]
    """Commits of the baseline's runs."""
    passed: bool
    gates: dict[str, State]
    """Gate -> its worst state."""
    numbers: tuple[GateNumber, ...]


def entry(suite: str, commit: str | None, against: Sequence[str], verdicts: Sequence[GateResult]) -> Entry:
    """A check, as of now. Replayed weights that are as recorded are kept as one number for each method: the largest."""
    gates: dict[str, State] = {}
    for state in ("not judged", "ok", "failed"):
        gates |= {verdict.gate: state for verdict in verdicts if verdict.state == state}
    return Entry(
        suite=suite,
        commit=commit,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        against=tuple(against),
        passed="failed" not in gates.values(),
        gates=gates,
        numbers=tuple(_number(verdict) for verdict in verdicts if verdict.gate != "weights" or verdict.state == "failed"),
    )


def append(folder: Path, new: Entry) -> Path:
    """Write an entry under a name of its own, in the order of the dates. Raises OSError."""
    time = new.date.replace("-", "").replace(":", "").removesuffix("+0000")
    name = f"{new.suite}-{time}-{(new.commit or 'unknown').replace('+', '-')}"
    path, number = folder / f"{name}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.json"
    return write(path, new.model_dump_json(indent=1) + "\n")


def read(folder: Path, suite: str) -> tuple[list[Entry], list[str]]:
    """The entries of a suite in the order of their dates, and one line for each file that cannot be used."""
    entries, warnings = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found = Entry.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            warnings.append(f"{path}: left out of the history: {f'{place}: ' if place else ''}{first['msg']}")
            continue
        except (OSError, ValueError) as error:
            warnings.append(f"{path}: left out of the history: {error}")
            continue
        if found.suite == suite:
            entries.append(found)
    return sorted(entries, key=lambda each: each.date), warnings


def _number(verdict: GateResult) -> GateNumber:
    value = verdict.value if math.isfinite(verdict.value) else None
    return GateNumber(gate=verdict.gate, place=verdict.place, method=verdict.method, state=verdict.state, value=value)
