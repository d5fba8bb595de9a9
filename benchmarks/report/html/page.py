"""The page as text: tables, charts as data, one style sheet, one script and the plotting library, all in one file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from benchmarks.analysis.section_tables import SectionTables
from benchmarks.analysis.sections import STL
from benchmarks.analysis.suite_tables import SuiteTables
from benchmarks.analysis.table import Table
from benchmarks.records.files import write
from benchmarks.records.schema import SCHEMA, Run
from benchmarks.report import formatting
from benchmarks.report.html.chart import Chart
from benchmarks.report.html.charts import section_charts
from benchmarks.report.html.plotly_style import Key, curve_key
from benchmarks.report.markdown import doubts, failures
from benchmarks.report.palette import STL_STYLE, Style, method_styles

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class CellView:
    """A cell as it is read and as it is sorted."""

    text: str
    value: float | None
    best: bool


@dataclass(frozen=True)
class RowView:
    """A row of a table, with the method that it belongs to, if any."""

    method: str | None
    cells: tuple[CellView, ...]


@dataclass(frozen=True)
class TableView:
    """A table as the template shows it."""

    title: str
    headers: tuple[str, ...]
    numeric: frozenset[int]
    """Places of the columns with numbers."""
    rows: tuple[RowView, ...]
    caption: str
    notes: tuple[str, ...]


def write_html(suite: SuiteTables, question: str, selection: str | None = None) -> Path:
    """Write ``report.html`` into the suite folder and return its path: the same records give the same bytes.

    question: what the suite asks; selection: the suite and filters as they are given on the command line, None for the
    folder's name alone. Raises OSError if the file cannot be written.
    """
    return write(suite.folder / "report.html", html(suite, question, selection or suite.folder.name))


def html(suite: SuiteTables, question: str, selection: str) -> str:
    """The whole page. selection: what follows ``run_bench.py`` to train and to show these runs."""
    styles = method_styles(suite.methods)
    parts = [_part(tables, styles) for tables in suite.sections]
    environment = Environment(
        loader=PackageLoader("benchmarks.report.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        suite=suite.folder.name,
        question=question,
        facts=_facts(suite.loaded.runs),
        reproduce=_reproduce(selection, suite.loaded.runs),
        parts=parts,
        summaries=[_view(table) for table in suite.summaries],
        methods=_methods(suite, styles),
        remarks=[*failures(suite), *doubts(suite), *suite.warnings, *suite.unusable],
        charts=_json([_numbered(part["slug"], part["charts"]) for part in parts]),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _part(tables: SectionTables, styles: Mapping[str, Style]) -> dict[str, Any]:
    """A problem as the template shows it: every table once, the verdicts and what went wrong in sections of their own."""
    section = tables.scores.section
    verdicts = tables.verdicts or (tables.overview,)
    names = {f"{section.slug}_flags", f"{section.slug}_failures"}
    noticed = [table for table in tables.others if table.name in names]
    elsewhere = {*names, *(table.name for table in verdicts)}
    rest = [table for table in (tables.overview, *tables.others) if table.name not in elsewhere]
    return {
        "name": section.name,
        "slug": section.slug,
        "verdicts": [_view(table) for table in verdicts],
        "tables": [_view(table) for table in rest],
        "noticed": [_view(table) for table in noticed],
        "charts": section_charts(tables, styles),
    }


def _methods(suite: SuiteTables, styles: Mapping[str, Style]) -> list[Key]:
    """What can be switched on and off: the single-task baseline where there is one, then every method."""
    single = [curve_key(STL, STL_STYLE, STL)] if any(tables.scores.section.single for tables in suite.sections) else []
    return [*single, *(curve_key(name, styles[name], name) for name in suite.methods)]


def _numbered(slug: Any, charts: Any) -> dict[str, Any]:
    found: Sequence[Chart] = charts
    return {f"chart-{slug}-{number}": chart.figure for number, chart in enumerate(found)}


def _json(groups: Sequence[Mapping[str, Any]]) -> str:
    """One object of all charts, fit to stand inside a script element."""
    text = json.dumps(
        {name: figure for group in groups for name, figure in group.items()}, separators=(",", ":"), allow_nan=False
    )
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _view(table: Table) -> TableView:
    marked = table.best()
    texts = formatting.cells(table)
    records = table.frame.to_dict("records")
    rows = tuple(
        RowView(
            method=str(record["method"]) if isinstance(record.get("method"), str) else None,
            cells=tuple(
                CellView(text, _value(record.get(column.key)), (row, place) in marked)
                for place, (column, text) in enumerate(zip(table.columns, texts[row], strict=True))
            ),
        )
        for row, record in enumerate(records)
    )
    headers = tuple(column.header + column.arrow.replace(" ", "\N{NO-BREAK SPACE}") for column in table.columns)
    # A column of numbers keeps its side where some, or all, are missing.
    numeric = frozenset(
        place
        for place, column in enumerate(table.columns)
        if records and all(_is_number(record.get(column.key)) for record in records)
    )
    return TableView(table.title, headers, numeric, rows, table.caption, table.notes)


def _value(value: object) -> float | None:
    """A number to sort by; None for text and for missing numbers."""
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What was compared and where, one pair of name and text each."""

    def listed(values: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value)) or "unknown"

    return [
        ("Runs", f"{len(runs)}, of which {sum(run.record.state == 'finished' for run in runs)} finished"),
        ("Problems", listed([f"{run.problem}: {', '.join(run.record.tasks)}" for run in runs if len(run.record.tasks) > 1])),
        ("Seeds", ", ".join(str(seed) for seed in sorted({run.seed for run in runs if run.record.run.role == "method"}))),
        ("Selection rule", listed([run.record.run.training.selection.replace("_", " ") for run in runs])),
        ("Machine", listed([_pairs(run.record.machine) for run in runs])),
    ]


def _reproduce(selection: str, runs: Sequence[Run]) -> list[tuple[str, str]]:
    commits = dict.fromkeys(run.record.commit or "unknown" for run in runs)
    versions = dict.fromkeys(_pairs(run.record.versions) for run in runs)
    return [
        ("Command", f"python run_bench.py {selection}"),
        ("This page", f"python run_bench.py report {selection} --html"),
        ("Commit", ", ".join(commits)),
        ("Versions", "; ".join(versions)),
        ("Schema of the records", str(SCHEMA)),
    ]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
