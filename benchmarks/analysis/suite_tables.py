"""Everything that a suite's records come to, computed once: what its report, its pictures and its page are written from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis.across import Changes, aggregate_table, changes, side_by_side
from benchmarks.analysis.loading import Loaded, load
from benchmarks.analysis.section_tables import SectionTables, section_tables
from benchmarks.analysis.sections import sections
from benchmarks.analysis.table import Table


@dataclass(frozen=True)
class SuiteTables:
    """The tables of a suite folder, and what they are made of."""

    folder: Path
    loaded: Loaded
    sections: tuple[SectionTables, ...]
    changes: Changes
    summaries: tuple[Table, ...]
    """Across the sections."""
    warnings: tuple[str, ...]
    """Runs left out, baselines missing."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The labels of all sections."""
        return tuple(dict.fromkeys(method for each in self.sections for method in each.scores.section.methods))

    @property
    def unusable(self) -> tuple[str, ...]:
        """One line for each record that cannot be used."""
        return tuple(f"unusable record: {each.reason}" for each in self.loaded.unusable)


def suite_tables(folder: Path, keys: Collection[str] | None = None) -> SuiteTables:
    """Of all runs of a suite folder, or of those with the given keys. A folder that does not exist holds none.

    Raises OSError if the folder of runs itself cannot be listed.
    """
    loaded = load(folder, keys)
    found, warnings = sections(loaded.runs)
    tables = tuple(section_tables(section) for section in found)
    changed = changes([each.scores for each in tables])
    summaries = (side_by_side(tables), aggregate_table(changed))
    return SuiteTables(
        folder=folder,
        loaded=loaded,
        sections=tables,
        changes=changed,
        summaries=tuple(table for table in summaries if table is not None),
        warnings=(*warnings, *(warning for each in tables for warning in each.scores.warnings)),
    )
