"""``run_bench.py compare BASE HEAD``: what changed between two folders of records, as one table."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.analysis.paired import LEAST_PAIRS, LEVEL, Paired, holm, paired
from benchmarks.analysis.per_run import DELTA_METRICS, per_run
from benchmarks.analysis.sections import sections
from benchmarks.errors import UserError
from benchmarks.regression import cost, quality, sides
from benchmarks.regression.sides import Methods, Side, finished
from benchmarks.report.formatting import MISSING, escape_markdown, number
from weighting import names

HEADER = (
    "problem",
    "method",
    "verdict",
    "measure",
    "base",
    "head",
    "change",
    "95 % interval",
    "pairs",
    "p",
    "s/step: base",
    "head",
)
VERDICTS = ("worse", "better", "no difference seen", "too few pairs", "identical")
CAPTION = (
    "Change: head minus base of the same seed, negative is better: of Δm in points where both folders have the single-task "
    "runs, else of the primary metrics in percent of the base's, mean over metrics. Interval: paired bootstrap. p: "
    "sign-flip test, Holm over this table; there is none below 6 pairs. s/step: relative to uniform in the same folder."
)


@dataclass(frozen=True)
class Row:
    """One method on one problem, in both folders."""

    problem: str
    method: str
    measure: str
    """``Δm`` in points, or ``metrics`` in percent of the base's."""
    base: float
    head: float
    change: Paired
    identical: bool
    """To the last digit, on every seed that both have."""
    p_value: float
    """After Holm, over the rows of the table."""
    seconds: tuple[float, float]
    """s/step relative to uniform in each folder."""

    @property
    def verdict(self) -> str:
        """In words; a test decides, and where there can be none that is said."""
        if self.identical:
            return "identical"
        if self.change.pairs < LEAST_PAIRS:
            return "too few pairs"
        if not self.p_value < LEVEL:
            return "no difference seen"
        return "better" if self.change.mean < 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """The table and what it does not show."""

    base: Path
    head: Path
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    """Runs in one folder only, hyperparameters that changed."""


def compare(base_folder: Path, head_folder: Path) -> Comparison:
    """Raises UserError on folders that cannot be compared."""
    base, head = sides.read(base_folder), sides.read(head_folder)
    sides.check_fingerprints(base, head)
    shared = [key for key in base.settings if key in head.settings]
    if not shared:
        raise UserError(
            f"{base_folder} and {head_folder}: expected a problem with equal settings in both, {_why(base, head)}"
        )
    deltas = _delta_m(base), _delta_m(head)
    places = {name: place for place, name in enumerate(names())}
    rows = [row for key in shared for row in _rows(base.settings[key], head.settings[key], deltas)]
    rows.sort(key=lambda row: (row.problem, places.get(row.method.partition("[")[0], len(places)), row.method))
    corrected = holm([row.change.p_value for row in rows])
    rows = [replace(row, p_value=p) for row, p in zip(rows, corrected, strict=True)]
    return Comparison(base_folder, head_folder, tuple(rows), tuple(_notes(base, head, shared)))


def terminal(found: Comparison) -> str:
    """The table and the notes as plain text."""
    rows = [_cells(row) for row in found.rows]
    table = tabulate(rows, HEADER, tablefmt="simple", disable_numparse=True, colalign=_align())
    notes = [f"! {note}" for note in found.notes]
    return "\n".join([_title(found), "", table, "", *textwrap.wrap(CAPTION, 140), *([""] if notes else []), *notes])


def markdown(found: Comparison) -> str:
    """The same for a pull request."""
    rows = [[escape_markdown(cell) for cell in _cells(row)] for row in found.rows]
    table = tabulate(rows, HEADER, tablefmt="github", disable_numparse=True, colalign=_align())
    notes = [f"- {escape_markdown(note)}" for note in found.notes] or ["None."]
    commits = [f"- {name}: `{side}`" for name, side in (("base", found.base), ("head", found.head))]
    title = escape_markdown(_title(found))
    parts = ["## Comparison", "", *commits, "", title, "", table, "", CAPTION, "", "### Not in the table", "", *notes]
    return "\n".join(parts) + "\n"


def _rows(base: Methods, head: Methods, deltas: tuple[Mapping[str, float], Mapping[str, float]]) -> list[Row]:
    return [_row(label, base, head, deltas) for label in base if label in head]


def _row(label: str, base: Methods, head: Methods, deltas: tuple[Mapping[str, float], Mapping[str, float]]) -> Row:
    before, after = finished(base[label]), finished(head[label])
    seeds = [seed for seed in before if seed in after]
    old = np.array([deltas[0].get(before[seed].record.key, math.nan) for seed in seeds])
    new = np.array([deltas[1].get(after[seed].record.key, math.nan) for seed in seeds])
    measure, changes = "Δm", new - old
    if not np.isfinite(changes).all():
        measure, old, new = "metrics %", np.array([math.nan]), np.array([math.nan])
        changes = quality.percent(np.stack([quality.values(before[s]) for s in seeds]), [after[s] for s in seeds])
    change = paired(changes)
    return Row(
        problem=next(iter(base[label].values())).problem,
        method=label,
        measure=measure,
        base=float(old.mean()) if seeds else math.nan,
        head=float(new.mean()) if seeds else math.nan,
        change=change,
        identical=bool(len(changes)) and not changes.any(),
        p_value=change.p_value,
        seconds=(cost.relative(base, label), cost.relative(head, label)),
    )


def _delta_m(side: Side) -> dict[str, float]:
    """Key of a run -> Δm in percent, NaN where there is none. Raises UserError."""
    found: dict[str, float] = {}
    for section in sections(side.runs)[0]:
        if section.excluded:
            run, why = section.excluded[0]
            raise UserError(f"{side.folder}: run {run.record.key} ({run.label}, seed {run.seed}): {why}")
        rows, _ = per_run(section)
        found |= dict(zip(rows["run"], rows[DELTA_METRICS], strict=True))
    return found


def _notes(base: Side, head: Side, shared: Sequence[str]) -> list[str]:
    notes = []
    for side, other, name in ((base, head, "base"), (head, base, "head")):
        for key, methods in side.settings.items():
            problem = sides.problem_of(methods)
            if key not in shared:
                notes.append(f"{problem}: with these settings in {name} only ({_difference(key, other)})")
                continue
            notes += [f"{problem}: {text} finished in {name} only" for text in _alone(methods, other.settings[key])]
    for key in shared:
        for label in base.settings[key].keys() & head.settings[key].keys():
            changed = sides.changed_settings(base.settings[key], head.settings[key], label)
            if changed:
                notes.append(f"{sides.problem_of(base.settings[key])}: {label}: hyperparameters changed: {changed}")
    return sorted(notes)


def _alone(own: Methods, other: Methods) -> list[str]:
    """Runs that finished on one side only, methods with the same seeds in one line."""
    found: dict[str, list[str]] = {}
    for label, seeds in own.items():
        only = sorted(set(finished(seeds)) - set(finished(other.get(label, {}))))
        if only:
            found.setdefault(", ".join(map(str, only)), []).append(label)
    return [f"{', '.join(labels)}: seed {seeds}" for seeds, labels in found.items()]


def _why(base: Side, head: Side) -> str:
    if not base.settings or not head.settings:
        return "found single-task runs alone"
    return f"found {_difference(next(iter(base.settings)), head)}"


def _difference(key: str, other: Side) -> str:
    """In what a setting differs from the one of the same problem on the other side."""
    name = json.loads(key)["problem"]
    near = [found for found, methods in other.settings.items() if sides.problem_of(methods) == name]
    return sides.difference(key, near[0], "there") if near else f"no {name} there"


def _title(found: Comparison) -> str:
    count = Counter(row.verdict for row in found.rows)
    parts = [f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict]]
    return f"{len(found.rows)} methods on problems of both: {', '.join(parts) or 'none'}"


def _cells(row: Row) -> list[str]:
    change = row.change
    interval = f"{number(change.low, 2)} to {number(change.high, 2)}" if math.isfinite(change.low) else MISSING
    p_value = number(row.p_value, 3)
    numbers = [number(row.base, 2), number(row.head, 2), number(change.mean, 2), interval, str(change.pairs), p_value]
    return [row.problem, row.method, row.verdict, row.measure, *numbers, *(number(each, 2) for each in row.seconds)]


def _align() -> list[str]:
    return ["left"] * 4 + ["right"] * (len(HEADER) - 4)
