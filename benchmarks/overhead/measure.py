"""What a method and a whole command cost: measured side by side, written as tables, never asserted in tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from benchmarks.analysis.table import Column, Table
from benchmarks.errors import UserError
from benchmarks.overhead.parts import PARTS, Part
from benchmarks.records import provenance
from benchmarks.records.files import write
from benchmarks.report.formatting import markdown_rows
from benchmarks.report.table_files import write_data

SECTION = re.compile(r"^## (.*)\n\n((?:(?!## ).*\n)*)", flags=re.MULTILINE)


def write_costs(out: Path, device: torch.device, asked: Sequence[str] = ()) -> str:
    """Measure, write ``overhead/overhead.md`` and CSV and LaTeX files under ``out``, and return the text.

    asked  names of parts; those that are not asked for stay on the page as they are; none: all

    Each part is written as soon as it is measured. Raises UserError on an unknown part or one that lacks something
    installed, OSError where the files cannot be written.
    """
    unknown = [name for name in asked if name not in PARTS]
    if unknown:
        raise UserError(f"overhead: expected parts among {', '.join(PARTS)}, found {', '.join(unknown)}")
    lacking = [name for name in asked if not PARTS[name].is_installed()]
    if lacking:
        raise UserError(f"overhead: {lacking[0]} needs {PARTS[lacking[0]].extras}")
    page = out / "overhead" / "overhead.md"
    text = ""
    for name in asked or PARTS:
        text = _with_section(page, PARTS[name], _measured(name, page.parent, device))
        write(page, text)
    return text


def _with_section(page: Path, part: Part, section: str) -> str:
    """The page with one section made anew, or added."""
    known = dict(SECTION.findall(page.read_text(encoding="utf-8"))) if page.exists() else {}
    known[part.heading] = section
    headings = [each.heading for each in PARTS.values() if each.heading in known]
    return "# What a step costs\n\n" + "\n".join(f"## {heading}\n\n{known[heading].rstrip()}\n" for heading in headings)


def _measured(name: str, folder: Path, device: torch.device) -> str:
    part = PARTS[name]
    if not part.is_installed():
        return f"Not measured: it needs {part.extras}.\n"
    table = _table(name, part.measure(device))
    write_data(folder, table)
    machine = provenance.machine(device)
    return (
        f"{part.says()}\n\n{markdown_rows(table)}\n\n{datetime.now(UTC):%Y-%m-%d}, {machine['processor']} "
        f"({machine['device']}), {machine['threads']} thread(s), torch {torch.__version__}, commit {provenance.commit()}.\n"
    )


DECIMALS = {"tasks": 0, "peak MB": 0, "CPU s": 1, "wall s": 1, "allowed": 2, "CPU by hand = 1": 2}
"""Of columns with other than three."""


def _table(name: str, frame: pd.DataFrame) -> Table:
    columns = (Column(str(key), str(key), decimals=DECIMALS.get(str(key), 3)) for key in frame.columns)
    return Table(name, name, "", tuple(columns), frame)
