"""From the records of a suite to tables, pictures and a page, without training: the same records give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.analysis.error_rates import calibration_table
from benchmarks.analysis.loading import load
from benchmarks.analysis.scores import scores
from benchmarks.analysis.section_tables import SectionTables
from benchmarks.analysis.sections import sections
from benchmarks.analysis.suite_tables import SuiteTables
from benchmarks.records.files import write
from benchmarks.report import formatting
from benchmarks.report.figures import (
    ablation,
    curves,
    landscape,
    overview,
    pareto,
    profiles,
    style,
    timeline,
    weights,
)
from benchmarks.report.markdown import Chapter, Picture, failures, page, terminal
from benchmarks.report.palette import Style, method_styles
from benchmarks.report.table_files import write_table


@dataclass(frozen=True)
class Report:
    """What was written, what to print, and what a reader must know."""

    paths: tuple[Path, ...]
    text: str
    """At most 140 columns: the overview, then failures and warnings."""
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    """Runs left out, baselines missing, records unusable."""


def write_report(suite: SuiteTables, plots_folder: Path) -> Report:
    """Write all tables, pictures and the page of a suite.

    Writes ``report.md``, ``summary.txt`` (what the terminal shows) and ``tables/`` in the suite folder, and the pictures
    in the plots folder; each file is whole or not there. Raises OSError if a file cannot be written.
    """
    styles = method_styles(suite.methods)
    paths: list[Path] = []
    with style.settings():
        draw = _Drawer(suite.folder, plots_folder, paths)
        chapters = [Chapter(tables, _section_pictures(draw, tables, styles)) for tables in suite.sections]
        pictures = (
            *draw(overview.figure(suite.sections, styles), "overview", "Δm against cost", overview.CAPTION),
            *draw(profiles.figure(suite.changes, styles), "profiles", "Performance profiles", profiles.CAPTION),
        )
    folder = suite.folder / "tables"
    for tables in suite.sections:
        for table in (tables.overview, *tables.others):
            paths += write_table(folder, table)
        slug = tables.scores.section.slug
        paths.append(write(folder / f"{slug}_runs.csv", formatting.to_csv(tables.scores.methods)))
    for table in suite.summaries:
        paths += write_table(folder, table)
    summary = terminal(suite)
    paths.append(write(suite.folder / "report.md", page(suite, chapters, pictures)))
    paths.append(write(suite.folder / "summary.txt", summary + "\n"))
    return Report(
        paths=tuple(paths),
        text=summary,
        failures=tuple(failures(suite)),
        warnings=(*suite.warnings, *suite.unusable),
    )


def write_calibration(suite_folder: Path, keys: Collection[str]) -> str:
    """Measure how often the comparison errs on every problem, write the tables, and return them as text.

    Raises ValueError where there are too few runs of uniform, OSError if a file cannot be written.
    """
    found, _ = sections(load(suite_folder, keys).runs)
    if not found:
        raise ValueError("expected recorded runs, found none")
    tables = [calibration_table(scores(section)) for section in found]
    for table in tables:
        write_table(suite_folder / "tables", table)
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
        path = write(self.plots_folder / f"{name}.png", style.render(figure))
        self.paths.append(path)
        relative = os.path.relpath(path, self.suite_folder)
        return (Picture(title, caption, Path(relative).as_posix()),)


def _section_pictures(draw: _Drawer, tables: SectionTables, styles: Mapping[str, Style]) -> tuple[Picture, ...]:
    section = tables.scores.section
    name = section.slug
    return (
        *draw(ablation.figure(tables, styles), f"{name}_settings", f"{name}: settings", ablation.CAPTION),
        *draw(curves.figure(section, styles), f"{name}_curves", f"{section.name}: validation loss", curves.CAPTION),
        *draw(weights.figure(section), f"{name}_weights", f"{section.name}: weights", weights.CAPTION),
        *draw(timeline.figure(section), f"{name}_timeline", f"{section.name}: inside the methods", timeline.CAPTION),
        *draw(pareto.figure(tables, styles), f"{name}_front", f"{section.name}: front", pareto.CAPTION),
        *draw(landscape.figure(section, styles), f"{name}_landscape", f"{section.name}: paths", landscape.CAPTION),
    )
