"""Which commits of this project the runs of a section were trained by: of several, their tables say so."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.records.schema import SINGLE_TASK_ROLES, Run

SHOWN = 7
"""Characters of a commit."""
UNKNOWN = "an unknown commit"


def mixed_commits(runs: Iterable[Run]) -> str:
    """The commits with their numbers of runs and their methods, the earliest first; empty where there is one."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda each: each.record.started):
        groups.setdefault(run.record.commit or UNKNOWN, []).append(run)
    if len(groups) < 2:
        return ""
    texts = [f"{_short(commit)} ({len(own)} run{'s' * (len(own) > 1)}: {_who(own)})" for commit, own in groups.items()]
    return f"trained by {len(groups)} commits: {'; '.join(texts)}"


def _short(commit: str) -> str:
    """With the mark of changed files, if it has one."""
    name, plus, mark = commit.partition("+")
    return commit if commit == UNKNOWN else name[:SHOWN] + plus + mark


def _who(runs: Iterable[Run]) -> str:
    return ", ".join(sorted({"STL" if run.record.run.role in SINGLE_TASK_ROLES else run.label for run in runs}))
