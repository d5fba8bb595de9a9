"""``report.md`` and what the terminal shows: the same numbers, read top to bottom."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.analysis.section_tables import SIGN, SectionTables, flagged
from benchmarks.analysis.sections import STL, Section
from benchmarks.analysis.suite_tables import SuiteTables
from benchmarks.analysis.table import Column, Table
from benchmarks.records.schema import DISTURBED, Run
from benchmarks.report.formatting import escape_markdown, markdown_rows, to_markdown, to_terminal

DOUBTFUL = ("never_moved", "like_uniform", "negative_weights", "not_finite", DISTURBED)
"""Flags that the terminal shows too, as it does every guard that was taken."""


@dataclass(frozen=True)
class Picture:
    """A picture as the page shows it."""

    title: str
    caption: str
    png: str
    """Path relative to the page."""


@dataclass(frozen=True)
class Chapter:
    """A problem's part of the page."""

    tables: SectionTables
    pictures: tuple[Picture, ...]


def page(suite: SuiteTables, chapters: Sequence[Chapter], pictures: Sequence[Picture]) -> str:
    """The whole page as Markdown. chapters: one for each section of the suite; pictures: those across them."""
    lines = [f"# {escape_markdown(suite.folder.name)}", ""]
    if not suite.loaded.runs:
        lines += ["No usable run was found.", ""]
    else:
        lines += _compared(suite)
        lines += [to_markdown(table).replace("### ", "## ", 1) for table in suite.summaries]
        lines += _pictures(pictures)
    for chapter in chapters:
        section = chapter.tables.scores.section
        lines += [f"## {escape_markdown(section.name)}", "", _splits(section), ""]
        lines += [to_markdown(table) for table in chapter.tables.others]
        lines += _pictures(chapter.pictures)
    lines += ["## Failures and warnings", ""]
    remarks = [*failures(suite), *suite.warnings, *suite.unusable]
    lines += [f"- {escape_markdown(remark)}" for remark in remarks] or ["None."]
    return "\n".join(lines).rstrip() + "\n"


def terminal(suite: SuiteTables) -> str:
    """The overview of every problem as plain text of at most 140 columns, then what went wrong."""
    parts = []
    for tables in suite.sections:
        section = tables.scores.section
        if section.methods:
            seeds = ", ".join(map(str, section.seeds))
            head = f"{section.name}  (seeds {seeds}{_unfair(section)})"
            parts.append(f"{head}\n{to_terminal(tables.overview)}")
    if parts:
        parts.append(
            "Test metrics and the rest: mean ± standard error over seeds; n: finished of planned; *: best of those that "
            f"finished on all seeds.\nΔm: change against {STL} of the same seed, {SIGN}; mean over metrics, or within tasks "
            "and then over tasks."
        )
    else:
        parts.append("No run of a method was found." if suite.sections else "No usable run was found.")
    remarks = [*failures(suite), *doubts(suite), *suite.warnings, *suite.unusable]
    if remarks:
        parts.append("\n".join(f"! {remark}" for remark in remarks))
    return "\n\n".join(parts)


def _unfair(section: Section) -> str:
    return "; ORACLE: the model was chosen on test" if section.training.selection == "oracle_on_test" else ""


def doubts(suite: SuiteTables) -> list[str]:
    """One line for every method and flag that puts its numbers in doubt; all flags are in the tables."""
    return [
        f"{section.name}: {method}: {name.replace('_', ' ')} on {len(runs)} of {len(section.seeds)} seeds"
        for section in _sections(suite)
        for method, name, runs in flagged(section)
        if name in DOUBTFUL or name.startswith("guard:")
    ]


def failures(suite: SuiteTables) -> list[str]:
    """One line for every failed run."""
    found = []
    for section in _sections(suite):
        for role in (section.runs, section.single):
            for (name, seed), run in sorted(role.items()):
                if run.record.state == "finished":
                    continue
                who = name if role is section.runs else f"{STL} of {name}"
                at = "" if run.record.failed_step is None else f" at step {run.record.failed_step}"
                why = f": {run.record.reason}" if run.record.reason else ""
                state = run.record.state.replace("_", " ")
                found.append(f"{section.name}: {who}, seed {seed}: {state}{at}{why}")
    return found


def _sections(suite: SuiteTables) -> list[Section]:
    return [tables.scores.section for tables in suite.sections]


def _compared(suite: SuiteTables) -> list[str]:
    runs = suite.loaded.runs
    lines = ["## What was compared", ""]
    for section in _sections(suite):
        seeds = ", ".join(map(str, section.seeds))
        options = _compact(_given(section.problem.options))
        lines.append(
            escape_markdown(
                f"- {section.name}{f' ({options})' if options else ''}: tasks {', '.join(section.tasks)}; seeds {seeds}; "
                f"training {_compact(_given(section.training.model_dump(mode='json')))}"
            ).replace("\\*", "*")
        )
    lines += ["", _methods(_sections(suite)), ""]
    rules = [run.record.selection.rule for run in runs if run.record.selection is not None]
    lines += [f"- Selection rule: {_listed(rule.replace('_', ' ') for rule in rules)}."]
    lines += [f"- Machine: {_listed(_compact(run.record.machine) for run in runs)}."]
    lines += [f"- Versions: {_listed(_compact(run.record.versions) for run in runs)}."]
    lines += [f"- Commit: {_listed(run.record.commit or 'unknown' for run in runs)}.", ""]
    return lines


def _methods(found: Sequence[Section]) -> str:
    """A table of the methods with their hyperparameters as they were used."""
    names: dict[str, str] = {}
    used: dict[str, dict[str, list[str]]] = {}
    for section in found:
        for method in section.methods:
            runs = [run for (label, _), run in section.runs.items() if label == method]
            if runs:
                names[method] = runs[0].record.run.weighter.name
                used.setdefault(method, {}).setdefault(_hyperparameters(runs), []).append(section.name)
    rows = []
    for method, settings in used.items():
        text = "; ".join(
            f"{', '.join(problems)}: {setting}" if len(settings) > 1 else setting for setting, problems in settings.items()
        )
        rows.append({"method": method, "weighter": names[method], "hyperparameters": text or "none"})
    shown = tuple(Column(key, key) for key in ("method", "weighter", "hyperparameters"))
    return markdown_rows(Table("methods", "Methods", "", shown, pd.DataFrame(rows, columns=[each.key for each in shown])))


def _hyperparameters(runs: Sequence[Run]) -> str:
    """The hyperparameters of one method on one problem; those that a run's seed decides are said to."""
    used = [run.record.resolved or run.record.run.weighter.hyperparameters for run in runs]
    return _compact(
        {name: value if all(other.get(name) == value for other in used) else "by seed" for name, value in used[0].items()}
    )


def _splits(section: Section) -> str:
    runs = [*section.runs.values(), *section.single.values()]
    return escape_markdown(_listed(run.record.splits for run in runs))


def _pictures(pictures: Iterable[Picture]) -> list[str]:
    lines = []
    for picture in pictures:
        lines += [f"![{escape_markdown(picture.title)}](<{picture.png}>)", "", escape_markdown(picture.caption), ""]
    return lines


def _listed(values: Iterable[str]) -> str:
    """The distinct values, most frequent first, with how many runs have each if they differ."""
    count = Counter(values)
    if len(count) < 2:
        return next(iter(count), "unknown")
    return "; ".join(
        f"{value} ({number} runs)" for value, number in sorted(count.items(), key=lambda item: (-item[1], item[0]))
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is off: a page is read for what was done. A 0 is a number that somebody chose."""
    return {name: value for name, value in values.items() if value is not None and value is not False and value != "none"}


def _compact(values: Mapping[str, Any]) -> str:
    """``name=value`` pairs on one line."""
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, default=str)}" for key, value in values.items()
    )
