"""What a test run that is long enough to be quoted has counted, as tables on a page."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

BLOCK = re.compile(r"(<!-- begin soak -->\n).*?(<!-- end -->)", flags=re.DOTALL)
PACKAGES = ("torch", "pandas", "pyarrow")


class Figures:
    """Rows by the heading that they go under."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Mapping[str, object]]] = {}

    def add(self, heading: str, row: Mapping[str, object]) -> None:
        """One more row; all rows of a heading have the same columns."""
        self.tables.setdefault(heading, []).append(row)

    def write(self, page: Path) -> None:
        """Put the tables into the page, between its markers; tables of tests that were not run are lost."""
        text = page.read_text(encoding="utf-8")
        page.write_text(BLOCK.sub(lambda found: f"{found[1]}{self._as_markdown()}{found[2]}", text), encoding="utf-8")

    def _as_markdown(self) -> str:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
        parts = [f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()}, Python {platform.python_version()}, {versions}.\n\n"]
        for heading, rows in self.tables.items():
            columns = list(rows[0])
            cells = [columns, ["---"] * len(columns), *([str(row[name]) for name in columns] for row in rows)]
            parts.append(f"### {heading}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in cells) + "\n")
        return "".join(parts)
