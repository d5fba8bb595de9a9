"""From the records of a suite to tables, pictures and a page, without training: the same records give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.analysis.across import aggregate_table, changes, ranking, side_by_side
from benchmarks.analysis.error_rates import calibration_table
from benchmarks.analysis.loading import Loaded, Unusable, load
from benchmarks.analysis.pareto import objectives
from benchmarks.analysis.section_tables import SectionTables, section_tables
from benchmarks.analysis.sections import Section, sections
from benchmarks.analysis.table import Table
from benchmarks.records.files import write
from benchmarks.report import formatting
from benchmarks.report.figures import (
    ablation,
    critical,
    curves,
    landscape,
    overview,
    pareto,
    probes,
    profiles,
    style,
    weights,
)
from benchmarks.report.markdown import Chapter, Picture, failures, page, terminal
from benchmarks.report.palette import Style, method_styles

__all__ = ["Loaded", "Report", "Unusable", "load", "write_calibration", "write_report"]


@dataclass(frozen=True)
class Report:
    """What was written, what to print, and what a reader must know."""

    paths: tuple[Path, ...]
    text: str
    """At most 140 columns: the overview, then failures and warnings."""
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    """Runs left out, baselines missing, records unusable."""


def write_report(suite_folder: Path, plots_folder: Path, keys: Collection[str] | None = None) -> Report:
    """Make all tables, pictures and the page of a suite, of all its runs or of those with the given keys.

    Writes ``report.md``, ``summary.txt`` (what the terminal shows) and ``tables/`` in the suite folder, and the pictures
    in the plots folder; each file is whole or not there. Raises OSError if a file cannot be written.
    """
    loaded = load(suite_folder, keys)
    found, warnings = sections(loaded.runs)
    tables = [section_tables(section) for section in found]
    warnings += [warning for each in tables for warning in each.warnings]
    styles = method_styles(method for section in found for method in section.methods)
    paths: list[Path] = []
    with style.settings():
        draw = _Drawer(suite_folder, plots_folder, paths)
        chapters = [
            Chapter(section, each, _section_pictures(draw, section, each, styles))
            for section, each in zip(found, tables, strict=True)
        ]
        made = overview.figure([section.name for section in found], tables, styles)
        changed = changes(found)
        pictures = (
            *draw(made, "overview", "Δm against cost", overview.CAPTION),
            *draw(profiles.figure(changed, styles), "profiles", "Performance profiles", profiles.CAPTION),
            *draw(critical.figure(ranking(changed)), "ranks", "Critical difference of mean ranks", critical.CAPTION),
        )
    summaries = [table for table in (side_by_side(found, tables), aggregate_table(changed)) if table is not None]
    folder = suite_folder / "tables"
    for chapter in chapters:
        for table in (chapter.tables.overview, *chapter.tables.others):
            paths += _write_table(folder, table)
        paths.append(write(folder / f"{chapter.section.slug}_runs.csv", formatting.to_csv(chapter.tables.runs)))
    for table in summaries:
        paths += _write_table(folder, table)
    text = page(suite_folder.name, loaded.runs, chapters, summaries, pictures, loaded.unusable, warnings)
    summary = terminal(chapters, loaded.unusable, warnings)
    paths.append(write(suite_folder / "report.md", text))
    paths.append(write(suite_folder / "summary.txt", summary + "\n"))
    return Report(
        paths=tuple(paths),
        text=summary,
        failures=tuple(failures(chapters)),
        warnings=(*warnings, *(f"unusable record: {each.reason}" for each in loaded.unusable)),
    )


def write_calibration(suite_folder: Path, keys: Collection[str]) -> str:
    """Measure how often the comparison errs on every problem, write the tables, and return them as text.

    Raises ValueError where there are too few runs of uniform, OSError if a file cannot be written.
    """
    found, _ = sections(load(suite_folder, keys).runs)
    if not found:
        raise ValueError("expected recorded runs, found none")
    tables = [calibration_table(section) for section in found]
    for table in tables:
        _write_table(suite_folder / "tables", table)
    return "\n\n".join(formatting.to_markdown(table) for table in tables)


@dataclass(frozen=True)
class _Drawer:
    """Writes figures and remembers where."""

    suite_folder: Path
    plots_folder: Path
    paths: list[Path]

    def __call__(self, figure: Figure | None, name: str, title: str, caption: str) -> tuple[Picture, ...]:
        if figure is None:
            return ()
        for suffix, data in style.render(figure).items():
            self.paths.append(write(self.plots_folder / f"{name}{suffix}", data))
        relative = os.path.relpath(self.plots_folder / f"{name}.png", self.suite_folder)
        return (Picture(title, caption, Path(relative).as_posix()),)


def _section_pictures(
    draw: _Drawer, section: Section, tables: SectionTables, styles: Mapping[str, Style]
) -> tuple[Picture, ...]:
    name = section.slug
    return (
        *draw(
            ablation.figure(tables.settings, tables.runs, styles), f"{name}_settings", f"{name}: settings", ablation.CAPTION
        ),
        *draw(curves.figure(section, styles), f"{name}_curves", f"{section.name}: validation loss", curves.CAPTION),
        *draw(weights.figure(section), f"{name}_weights", f"{section.name}: weights", weights.CAPTION),
        *draw(probes.figure(section), f"{name}_probes", f"{section.name}: inside the methods", probes.CAPTION),
        *draw(
            pareto.figure(tables.front, objectives(section), styles),
            f"{name}_front",
            f"{section.name}: front",
            pareto.CAPTION,
        ),
        *draw(landscape.figure(section, styles), f"{name}_landscape", f"{section.name}: paths", landscape.CAPTION),
    )


def _write_table(folder: Path, table: Table) -> list[Path]:
    return [
        write(folder / f"{table.name}.md", formatting.to_markdown(table)),
        write(folder / f"{table.name}.csv", formatting.table_csv(table)),
        write(folder / f"{table.name}.tex", formatting.to_latex(table)),
    ]
