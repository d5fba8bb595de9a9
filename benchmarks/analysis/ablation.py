"""Settings of one method side by side: what changes against its own default, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

import weighting
from benchmarks.analysis import scores, statistics
from benchmarks.analysis.scores import CHANGE, Scores
from benchmarks.analysis.sections import Section
from benchmarks.analysis.table import ERROR, Column, Table

MEASURES = (
    Column(scores.DELTA_METRICS, "Δm % (negative: better than STL)", "lower", "Δm %"),
    Column(scores.SPREAD, "convergence spread", "lower", "spread"),
    Column(scores.PRICE, "price of one checkpoint", "lower", "price"),
)


@dataclass(frozen=True)
class MethodSettings:
    """One method in several settings."""

    method: str
    base: str
    """Label of the setting that the others are compared with: the one nearest to the method's defaults."""
    labels: tuple[str, ...]

    def setting(self, label: str) -> str:
        """What is changed, e.g. ``tau=2``."""
        if label == self.method:
            return "default"
        name, _, changed = label.partition("[")
        return changed.rstrip("]") if name == self.method else label


def method_settings(section: Section) -> list[MethodSettings]:
    """The methods of the section that have several settings, in its order."""
    groups: dict[str, list[str]] = {}
    for label in section.methods:
        groups.setdefault(weighting.family(label.partition("[")[0]), []).append(label)
    return [
        MethodSettings(name, name if name in labels else labels[0], tuple(sorted(labels, key=lambda label: label != name)))
        for name, labels in groups.items()
        if len(labels) > 1
    ]


def settings_table(scored: Scores) -> Table | None:
    """One row per setting: means, and paired differences to the method's base setting. None without such methods."""
    section, found = scored.section, method_settings(scored.section)
    measures = [column for column in MEASURES if scored.methods[column.key].notna().any()]
    if not found or not measures:
        return None
    frame = pd.DataFrame([_row(scored, each, label, measures) for each in found for label in each.labels])
    shown: list[Column] = [Column("method", "method"), Column("setting", "setting"), Column("finished", "n", right=True)]
    for column in measures:
        change = f"{column.short}: change"
        shown += [column, Column(CHANGE + column.key, change, "lower", change)]
    bases = ", ".join(each.base for each in found)
    caption = (
        f"Mean ± standard error over seeds. Change: difference to the method's own base setting ({bases}) on the same seed, "
        "negative: better. Everything that a setting does not name is as in the base setting."
    )
    return Table(f"{section.slug}_settings", "Settings of one method", caption, tuple(shown), frame)


def _row(scored: Scores, settings: MethodSettings, label: str, measures: Sequence[Column]) -> dict[str, object]:
    """A measure's ``CHANGE`` is its paired difference to the method's base setting."""
    own, base = (scored.of("method", name).set_index("seed") for name in (label, settings.base))
    row: dict[str, object] = {
        "method": settings.method,
        "setting": settings.setting(label),
        "label": label,
        "finished": f"{len(own)}/{len(scored.section.seeds)}",
    }
    for column in measures:
        values = own[column.key]
        differences = (values - base[column.key]).dropna() if label != settings.base else pd.Series(dtype=float)
        row[column.key], row[column.key + ERROR] = statistics.mean_and_error(values.to_numpy(np.float64))
        mean, error = statistics.mean_and_error(differences.to_numpy(np.float64))
        row[CHANGE + column.key], row[CHANGE + column.key + ERROR] = (
            (mean, error) if len(differences) else (math.nan, math.nan)
        )
    return row
