"""Which commits of this project trained the runs of a section, and on which processors: of several, their tables say so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.records.schema import SINGLE_TASK_ROLES, Run

SHOWN = 7
"""Characters of a commit."""
UNKNOWN = "an unknown commit"
ROUNDING = "numbers are rounded otherwise on each, so that their runs differ as the same run on two of them does"


def mixed_origins(runs: Sequence[Run]) -> list[str]:
    """What the runs do not have in common, each with its numbers of runs and their methods, the earliest first."""
    widths = {
        run.record.machine.get("processor"): width for run in runs if (width := run.record.machine.get("instructions"))
    }
    commits, processors = _grouped(runs, _commit), _grouped(runs, lambda run: _processor(run, widths))
    found = []
    if len(commits) > 1:
        found.append(f"trained by {len(commits)} commits: {_in_words(commits)}")
    if len(processors) > 1:
        found.append(f"trained on {len(processors)} kinds of processor: {_in_words(processors)}; {ROUNDING}")
    return found


def _grouped(runs: Iterable[Run], by: Callable[[Run], str]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda each: each.record.started):
        groups.setdefault(by(run), []).append(run)
    return groups


def _in_words(groups: dict[str, list[Run]]) -> str:
    return "; ".join(f"{name} ({len(own)} run{'s' * (len(own) > 1)}: {_who(own)})" for name, own in groups.items())


def _commit(run: Run) -> str:
    """Short, with the mark of changed files, if it has one."""
    name, plus, mark = (run.record.commit or UNKNOWN).partition("+")
    return name if name == UNKNOWN else name[:SHOWN] + plus + mark


def _processor(run: Run, widths: Mapping[Any, str]) -> str:
    """The GPU, or else the processor with its instructions. widths: those of other runs, where a record does not tell."""
    facts = run.record.machine
    name = facts.get("processor")
    names = [facts["gpu"]] if facts.get("gpu") else [name, facts.get("instructions") or widths.get(name)]
    return " with ".join(str(each) for each in names if each) or "an unknown one"


def _who(runs: Iterable[Run]) -> str:
    return ", ".join(sorted({"STL" if run.record.run.role in SINGLE_TASK_ROLES else run.label for run in runs}))
