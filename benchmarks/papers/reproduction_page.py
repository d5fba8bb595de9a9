"""The report on a paper: as Markdown with everything, and for the terminal with the claims and the headline numbers."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from benchmarks.analysis.curves import probe_columns
from benchmarks.analysis.sections import Section
from benchmarks.analysis.table import Column, Table
from benchmarks.papers.claims import Experiment, Measured
from benchmarks.papers.comparison import ProtocolComparison, PublishedRow
from benchmarks.records.schema import Run
from benchmarks.report.figures import timeline
from benchmarks.report.formatting import MISSING, escape_markdown, to_markdown, to_terminal

WIDTH = 140

COLUMNS = (
    Column("method", "method"),
    Column("metric", "metric"),
    Column("published", "published"),
    Column("rerun", "re-run by others"),
    Column("ours", "ours (mean ± s.e., n)"),
    Column("difference", "difference"),
    Column("verdict", "verdict"),
)
OURS = tuple(column for column in COLUMNS if column.key in {"method", "metric", "ours"})
CAPTION = (
    "Difference: ours minus published; where nothing was run here, re-run minus published. Numbers that are not verified "
    "are not shown."
)
NOTHING = "Nothing of this paper can be run here: published numbers and others' re-runs only."


@dataclass(frozen=True)
class Outcome:
    """An experiment, the sections of its runs, the plain one first, and what they come to."""

    experiment: Experiment
    sections: tuple[Section, ...]
    measured: Measured


def markdown(paper: str, outcomes: Sequence[Outcome], comparisons: Sequence[ProtocolComparison]) -> str:
    """The whole report."""
    lines = [f"# Reproduction: {escape_markdown(paper)}", ""]
    if not outcomes:
        lines += [NOTHING, ""]
    for outcome in outcomes:
        name = outcome.experiment.problem
        lines += [f"## What was run here: {name}", "", *_listed([*_run_here(outcome), *outcome.measured.notes]), ""]
        lines += [_claims(outcome), *_pictures(outcome), f"### Where the runs of {name} depart from the paper's", ""]
        lines += [*_listed(outcome.experiment.departures), ""]
    lines += ["## Published, re-run by others, ours", "", escape_markdown(CAPTION), ""]
    for comparison in comparisons:
        lines += [_protocol(comparison)]
    return "\n".join(lines).rstrip() + "\n"


def terminal(paper: str, outcomes: Sequence[Outcome], comparisons: Sequence[ProtocolComparison]) -> str:
    """At most 140 columns: the claims, then the headline numbers of every protocol."""
    parts = [] if outcomes else [f"{paper}: {NOTHING}"]
    for outcome in outcomes:
        parts += ["\n".join(textwrap.wrap(text, WIDTH)) for text in (_run_here(outcome)[0], *outcome.measured.notes)]
        for check in outcome.measured.checks:
            lines = [f"{check.verdict.upper()}: {check.claim}"]
            for text in (check.numbers, check.criterion):
                lines += textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
            parts.append("\n".join(lines))
    for comparison in comparisons:
        title = f"{comparison.shown.protocol}: {comparison.shown.title}"
        rows = [row for row in comparison.rows if row.headline]
        body = to_terminal(_table(comparison, rows), WIDTH) if rows else "published: not available"
        notes = [line for note in _notes(comparison) for line in textwrap.wrap(f"! {note}", WIDTH, subsequent_indent="  ")]
        parts.append("\n".join([title, body, *notes]))
    parts.append("\n".join(textwrap.wrap(CAPTION, WIDTH)))
    return "\n\n".join(parts)


def _run_here(outcome: Outcome) -> list[str]:
    planned = [run for section in outcome.sections for run in _all_runs(section)]
    runs = [run for run in planned if run.record.state == "finished"]
    first = outcome.sections[0]
    seeds = ", ".join(map(str, first.seeds))
    return [
        f"Problem {first.name}: {first.training.steps} steps, seeds {seeds}; {len(runs)} of {len(planned)} runs finished.",
        f"Machine: {_common(_pairs(run.record.machine) for run in runs)}",
        f"Versions: {_common(_pairs(run.record.versions) for run in runs)}",
        f"Commit: {_common(run.record.commit or 'unknown' for run in runs)}",
    ]


def _all_runs(section: Section) -> list[Run]:
    others = [run for by_label in section.others.values() for runs in by_label.values() for run in runs]
    return [*section.runs.values(), *others]


def picture_of(section: Section) -> str:
    """The name of the picture of what is inside the methods, beside the page."""
    return f"{section.slug}_timeline.png"


def _pictures(outcome: Outcome) -> list[str]:
    found = []
    for section in outcome.sections:
        if probe_columns(section):
            title = escape_markdown(f"{section.name}: losses, weights and inner scores of the methods on one axis")
            found += [f"![{title}]({picture_of(section)})", "", escape_markdown(timeline.CAPTION), ""]
    return found


def _claims(outcome: Outcome) -> str:
    shown = tuple(Column(key, key) for key in ("claim", "verdict", "numbers", "criterion"))
    frame = pd.DataFrame([vars(check) for check in outcome.measured.checks], columns=[column.key for column in shown])
    caption = "A claim that does not hold here is a result; it says nothing about the paper's own setting."
    return to_markdown(Table("claims", f"Claims as checks: {outcome.experiment.problem}", caption, shown, frame))


def _protocol(comparison: ProtocolComparison) -> str:
    shown = comparison.shown
    text = to_markdown(_table(comparison, comparison.rows)) if comparison.rows else _untabled(comparison)
    sources = dict.fromkeys(number.source for each in (shown, *comparison.reruns) for number in each.numbers)
    notes = [f"Data: {shown.data}. Set-up: {shown.setup}.", *(f"Source: {source}." for source in sources)]
    return text.rstrip() + "\n\n" + "\n".join([*_listed([*notes, *_notes(comparison)]), ""])


def _untabled(comparison: ProtocolComparison) -> str:
    return f"### {_title(comparison)}\n\nPublished: not available.\n"


def _title(comparison: ProtocolComparison) -> str:
    return f"{comparison.shown.protocol}: {comparison.shown.title}"


def _notes(comparison: ProtocolComparison) -> list[str]:
    """Caveats of the protocol and of its numbers, what others' runs differ in, how many numbers are held back."""
    notes: list[str] = []
    for each in (comparison.shown, *comparison.reruns):
        notes += [each.differs] if each.differs else []
        notes += each.caveats
        notes += [caveat for number in each.numbers for caveat in number.caveats]
        notes += [each.note()] if each.withheld else []
    return list(dict.fromkeys(notes))


def _table(comparison: ProtocolComparison, rows: Sequence[PublishedRow]) -> Table:
    """Where nobody published anything, ours alone."""
    columns = COLUMNS if any({row.published, row.rerun} != {MISSING} for row in rows) else OURS
    frame = pd.DataFrame([vars(row) for row in rows], columns=[column.key for column in columns])
    return Table(comparison.shown.protocol, _title(comparison), "", columns, frame)


def _listed(lines: Sequence[str]) -> list[str]:
    return [f"- {escape_markdown(line)}" for line in lines]


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _common(values: Iterable[str]) -> str:
    """The distinct values, most frequent first."""
    return "; ".join(value for value, _ in Counter(values).most_common()) or "unknown"
