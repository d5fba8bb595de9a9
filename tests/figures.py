"""What a test run that is long enough to be quoted has counted, as tables on a page."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

BLOCK = re.compile(r"(<!-- begin soak -->\n)(.*?)(?=<!-- end -->)", flags=re.DOTALL)
SECTION = re.compile(r"^### (.*)\n\n((?:(?!### ).*\n)*)", flags=re.MULTILINE)
PACKAGES = ("torch", "pandas", "pyarrow")


class Figures:
    """Rows by the heading that they go under."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Mapping[str, object]]] = {}

    def add(self, heading: str, row: Mapping[str, object]) -> None:
        """One more row; all rows of a heading have the same columns."""
        self.tables.setdefault(heading, []).append(row)

    def write(self, page: Path) -> None:
        """Put the tables into the page, between its markers; tables of tests that were not run stay as they are."""
        text = page.read_text(encoding="utf-8")
        block = BLOCK.search(text)
        if block is None:
            raise ValueError(f"{page}: expected a line <!-- begin soak --> and one <!-- end -->, found none")
        sections = dict(SECTION.findall(block[2])) | self._sections()
        tables = "".join(f"### {heading}\n\n{sections[heading]}" for heading in sorted(sections))
        page.write_text(text[: block.start(2)] + tables + text[block.end(2) :], encoding="utf-8")

    def _sections(self) -> dict[str, str]:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
        when = f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()}, Python {platform.python_version()}, {versions}."
        return {heading: f"{when}\n\n{_table(rows)}\n" for heading, rows in self.tables.items()}


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    columns = list(rows[0])
    cells = [columns, ["---"] * len(columns), *([str(row[name]) for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
