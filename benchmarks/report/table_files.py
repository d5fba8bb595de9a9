"""A table as files: Markdown, CSV and LaTeX."""

from __future__ import annotations

from pathlib import Path

from benchmarks.analysis.table import Table
from benchmarks.records.files import write
from benchmarks.report import formatting


def write_table(folder: Path, table: Table) -> list[Path]:
    """Write the table under its name, each file whole, and return the paths. Raises OSError."""
    return [write(folder / f"{table.name}.md", formatting.to_markdown(table)), *write_data(folder, table)]


def write_data(folder: Path, table: Table) -> list[Path]:
    """The CSV and LaTeX files alone, where the Markdown is part of a page. Raises OSError."""
    return [
        write(folder / f"{table.name}.csv", formatting.table_csv(table)),
        write(folder / f"{table.name}.tex", formatting.to_latex(table)),
    ]
