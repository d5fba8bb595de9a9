"""The conformance table, made from the replays of a test run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

HEAD = """# Conformance

How far this project's weights are from those of other implementations that were fed the same numbers. One row per setting
and source ("own implementation" is that of the traces, made apart from this project). `make conformance` writes this page
from the test run that replays all traces.

| method | source | traces | largest deviation | limit |
| --- | --- | --- | --- | --- |
"""


@dataclass
class Row:
    """The replays of one setting against one source."""

    limit: str
    traces: set[str] = field(default_factory=set)
    largest: float | None = None
    failed: set[str] = field(default_factory=set)


@dataclass
class Conformance:
    """Collects what the replays tell, file by file."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def add(self, test: str, passed: bool, told: tuple[str, str, float | None, str]) -> None:
        """One replay of one file."""
        setting, source, difference, limit = told
        row = self.rows.setdefault((setting, source), Row(limit))
        row.traces.add(test)
        if difference is not None:
            row.largest = max(difference, row.largest or 0.0)
        if not passed:
            row.failed.add(test)

    def write(self, path: Path) -> None:
        """The page, in Markdown."""
        lines = [
            f"| {setting} | {source} | {len(row.traces)} | {_deviation(row)} | {row.limit} |"
            for (setting, source), row in sorted(self.rows.items())
        ]
        path.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def _deviation(row: Row) -> str:
    if row.failed:
        return f"FAILED in {len(row.failed)}: {', '.join(sorted(row.failed))}"
    return "within" if row.largest is None else f"{row.largest:.1e}"
