"""``run_bench.py compare BASE HEAD``: what changed between two folders of records, as one table."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.analysis.relative_cost import pairings, without_pair
from benchmarks.analysis.scores import DELTA_METRICS, scores
from benchmarks.analysis.sections import Section
from benchmarks.analysis.table import Column, Table
from benchmarks.analysis.verdict import VERDICTS, Judged, judge
from benchmarks.errors import UserError
from benchmarks.records.schema import Floats
from benchmarks.regression import baseline, quality, step_cost
from benchmarks.regression.baseline import Methods, RecordSet, finished
from benchmarks.report.formatting import escape_markdown, markdown_rows, to_terminal
from weighting import names

COLUMNS = (
    Column("problem", "problem"),
    Column("method", "method"),
    Column("verdict", "verdict"),
    Column("measure", "measure"),
    Column("base", "base", decimals=2),
    Column("head", "head", decimals=2),
    Column("change", "change", decimals=2),
    Column("low", "95 % from", short="from", decimals=2),
    Column("high", "to", decimals=2),
    Column("pairs", "pairs", decimals=0),
    Column("p_value", "p", decimals=3),
    Column("base_seconds", "s/step: base", decimals=2),
    Column("head_seconds", "s/step: head", decimals=2),
)
CAPTION = (
    "Change: head minus base of the same seed, negative is better: of Δm in points where both folders have the single-task "
    "runs, else of the primary metrics in percent of the base's, mean over metrics. Interval: paired bootstrap. p: "
    "sign-flip test, Holm over the methods of a problem that are not identical; verdict at 0.05. s/step: relative to "
    "uniform in the same folder, median over the seeds whose runs were trained together."
)


@dataclass(frozen=True)
class MethodChange:
    """One method on one problem, in both folders."""

    problem: str
    method: str
    measure: str
    """``Δm`` in points, or ``metrics %`` in percent of the base's."""
    base: float
    head: float
    judged: Judged
    """Holm over the rows of the problem."""
    seconds: tuple[float, float]
    """s/step relative to uniform in each folder."""


@dataclass(frozen=True)
class FolderComparison:
    """The table and what it does not show."""

    base: Path
    head: Path
    rows: tuple[MethodChange, ...]
    notes: tuple[str, ...]
    """Records that are damaged or left out, runs in one folder only, hyperparameters that changed."""


@dataclass(frozen=True)
class _Pairs:
    """A method in both folders, before it is judged."""

    label: str
    measure: str
    base: float
    head: float
    changes: Floats
    seconds: tuple[float, float]


def compare(base_folder: Path, head_folder: Path) -> FolderComparison:
    """Compare what can be paired and name the rest. Raises UserError where that is nothing."""
    base, head = baseline.read(base_folder), baseline.read(head_folder)
    head = baseline.without_those_that_began_otherwise(base, head)
    shared = [key for key in base.by_conditions if key in head.by_conditions]
    if not shared:
        raise UserError(
            f"{base_folder} and {head_folder}: expected a problem with equal settings in both, "
            f"{baseline.why_not_shared(base, head)}"
        )
    rows = [row for key in shared for row in _rows(base, head, key)]
    notes = _notes(base, head, shared)
    if not any(row.judged.found.pairs for row in rows):
        first = next(iter([*base.notes, *head.notes, *notes]), "no method is in both")
        raise UserError(f"{base_folder} and {head_folder}: expected runs that can be paired, found none: {first}")
    places = {name: place for place, name in enumerate(names())}
    rows.sort(key=lambda row: (row.problem, places.get(row.method.partition("[")[0], len(places)), row.method))
    return FolderComparison(base_folder, head_folder, tuple(rows), tuple(notes))


def table(found: FolderComparison) -> Table:
    """One row for each method on each problem."""
    frame = pd.DataFrame([_cells(row) for row in found.rows], columns=[column.key for column in COLUMNS])
    return Table("compare", _title(found), CAPTION, COLUMNS, frame)


def terminal(found: FolderComparison) -> str:
    """The table and the notes as plain text of at most 140 columns, but for long notes."""
    notes = [f"! {note}" for note in found.notes]
    lines = [_title(found), "", to_terminal(table(found)), "", *textwrap.wrap(CAPTION, 140)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def markdown(found: FolderComparison) -> str:
    """The same for a pull request."""
    notes = [f"- {escape_markdown(note)}" for note in found.notes] or ["None."]
    commits = [f"- {name}: `{folder}`" for name, folder in (("base", found.base), ("head", found.head))]
    title, rows = escape_markdown(_title(found)), markdown_rows(table(found))
    parts = ["## Comparison", "", *commits, "", title, "", rows, "", CAPTION, "", "### Not in the table", "", *notes]
    return "\n".join(parts) + "\n"


def _rows(base: RecordSet, head: RecordSet, key: str) -> list[MethodChange]:
    before, after = base.by_conditions[key], head.by_conditions[key]
    deltas = _delta_m(base.sections[key]), _delta_m(head.sections[key])
    found = [_pairs(before, after, label, other, deltas) for label, other in _partners(before, after).items()]
    judged = judge([each.changes for each in found])
    problem = base.sections[key].name
    return [
        MethodChange(problem, each.label, each.measure, each.base, each.head, verdict, each.seconds)
        for each, verdict in zip(found, judged, strict=True)
    ]


def _partners(before: Methods, after: Methods) -> dict[str, str]:
    """The base's label of every method that both have -> the head's."""
    found = {label: baseline.partner(after, baseline.any_of(seeds).record.run, label) for label, seeds in before.items()}
    return {label: other for label, other in found.items() if other is not None}


def _pairs(
    base: Methods, head: Methods, label: str, other: str, deltas: tuple[Mapping[str, float], Mapping[str, float]]
) -> _Pairs:
    before, after = finished(base[label]), finished(head[other])
    seeds = [seed for seed in before if seed in after]
    old = np.array([deltas[0].get(before[seed].record.key, math.nan) for seed in seeds])
    new = np.array([deltas[1].get(after[seed].record.key, math.nan) for seed in seeds])
    measure, changes = "Δm", new - old
    if not np.isfinite(changes).all():
        measure, old, new = "metrics %", np.array([math.nan]), np.array([math.nan])
        changes = quality.percent(np.stack([quality.values(before[s]) for s in seeds]), [after[s] for s in seeds])
    return _Pairs(
        label=label,
        measure=measure,
        base=float(old.mean()) if seeds else math.nan,
        head=float(new.mean()) if seeds else math.nan,
        changes=changes,
        seconds=(step_cost.relative(base, label), step_cost.relative(head, other)),
    )


def _delta_m(section: Section) -> dict[str, float]:
    """Key of a run -> Δm in percent, NaN where there is none."""
    rows = scores(section).methods
    return dict(zip(rows["run"], rows[DELTA_METRICS], strict=True))


def _notes(base: RecordSet, head: RecordSet, shared: Sequence[str]) -> list[str]:
    notes = []
    for records, other, name in ((base, head, "base"), (head, base, "head")):
        notes += [f"{name}: {note}" for note in records.notes]
        for key, methods in records.by_conditions.items():
            problem = records.sections[key].name
            if key not in shared:
                what = baseline.in_what(key, records, other, "there")
                notes.append(f"{problem}: with these settings in {name} only ({what})")
                continue
            notes += [f"{problem}: {text} finished in {name} only" for text in _alone(methods, other.by_conditions[key])]
            uniform = step_cost.uniform_of(methods)
            pairs = {label: pairings(finished(seeds).values(), uniform) for label, seeds in methods.items()}
            if uniform:
                notes += [f"{problem}: no s/step relative to uniform in {name}: {text}" for text in without_pair(pairs)]
    for key in shared:
        problem, before, after = base.sections[key].name, base.by_conditions[key], head.by_conditions[key]
        for label, other_label in _partners(before, after).items():
            changed = baseline.changed_hyperparameters(before[label], after[other_label])
            if changed:
                notes.append(f"{problem}: {label}: hyperparameters changed: {changed}")
        notes += [f"{problem}: {text} finished in neither" for text in _in_neither(before, after)]
    return sorted(notes)


def _alone(own: Methods, other: Methods) -> list[str]:
    """Runs that finished in one folder only, methods with the same seeds in one line."""
    partners = _partners(own, other)
    missing = {}
    for label, seeds in own.items():
        there = finished(other[partners[label]]) if label in partners else {}
        missing[label] = set(finished(seeds)) - set(there)
    return _by_seeds(missing)


def _in_neither(before: Methods, after: Methods) -> list[str]:
    """Runs that both folders have and that finished in none."""
    missing = {}
    for label, other in _partners(before, after).items():
        done = finished(before[label]).keys() | finished(after[other]).keys()
        missing[label] = (before[label].keys() & after[other].keys()) - done
    return _by_seeds(missing)


def _by_seeds(missing: Mapping[str, Set[int]]) -> list[str]:
    """Methods with the same seeds in one line; those without any in none."""
    found: dict[str, list[str]] = {}
    for label, seeds in missing.items():
        if seeds:
            found.setdefault(", ".join(map(str, sorted(seeds))), []).append(label)
    return [f"{', '.join(labels)}: seed {seeds}" for seeds, labels in found.items()]


def _title(found: FolderComparison) -> str:
    count = Counter(row.judged.verdict for row in found.rows)
    parts = [f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict]]
    return f"{len(found.rows)} methods on problems of both: {', '.join(parts) or 'none'}"


def _cells(row: MethodChange) -> dict[str, object]:
    change = row.judged.found
    return {
        "problem": row.problem,
        "method": row.method,
        "verdict": row.judged.words,
        "measure": row.measure,
        "base": row.base,
        "head": row.head,
        "change": change.mean,
        "low": change.low,
        "high": change.high,
        "pairs": change.pairs,
        "p_value": row.judged.p_value,
        "base_seconds": row.seconds[0],
        "head_seconds": row.seconds[1],
    }
