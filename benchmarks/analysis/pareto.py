"""Static weights over the simplex as a Pareto front, with the methods' points beside it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from benchmarks.analysis import statistics
from benchmarks.analysis.sections import Section
from benchmarks.analysis.table import ERROR, Column, Table
from benchmarks.records.schema import MetricInfo


def objectives(section: Section) -> list[MetricInfo]:
    """The primary metrics of tasks: what the front trades."""
    return [info for info in section.primary if info.task is not None]


def front_table(section: Section) -> Table | None:
    """One row for each static weighting, then for each method; None where the simplex was not covered.

    Columns ``label``, ``kind`` ("static" | "method"), the metrics, and ``place``: on the front of the static weightings, or
    how many of them are at least as good in every metric and better in one.
    """
    infos = objectives(section)
    static = [_row(section, label, "static", infos) for label in _labels(section)]
    if len(static) < 2 or not infos:
        return None
    methods = [_row(section, label, "method", infos) for label in section.methods if section.finished(label)]
    frame = pd.DataFrame([*static, *methods])
    higher = [info.higher_is_better for info in infos]
    values = frame[[info.key for info in infos]].to_numpy(np.float64)
    count = len(static)
    frame["on_front"] = [*statistics.non_dominated(values[:count], higher), *[False] * len(methods)]
    frame["place"] = [
        ("on the front" if frame["on_front"][row] else "behind")
        if row < count
        else _place(values[:count], values[row], higher)
        for row in range(len(frame))
    ]
    metrics = (Column(info.key, info.key, "higher" if info.higher_is_better else "lower", info.key) for info in infos)
    shown = (Column("label", "weights or method"), Column("finished", "n"), *metrics, Column("place", "place"))
    caption = (
        f"Static weights over the simplex (n: finished runs) and the methods, mean ± standard error over seeds. "
        f"{int(frame['on_front'].sum())} of {count} static weightings are on their Pareto front over {len(infos)} metrics: "
        "none other is as good in all and better in one. A method behind the front is beaten by constants that somebody had "
        "to find."
    )
    return Table(f"{section.slug}_front", "Static weights and the Pareto front", caption, shown, frame)


def _labels(section: Section) -> list[str]:
    found = {label: runs[0] for (label, _), runs in section.others.get("simplex", {}).items()}
    return sorted(found, key=lambda label: found[label].record.run.weighter.hyperparameters["weights"])


def _row(section: Section, label: str, kind: str, infos: list[MetricInfo]) -> dict[str, object]:
    runs = section.of_role("simplex", label) if kind == "static" else section.finished(label)
    row: dict[str, object] = {"label": label, "method": label, "kind": kind, "finished": f"{len(runs)}/{len(section.seeds)}"}
    for info in infos:
        values = np.array([run.record.metrics["test"].get(info.key, math.nan) for run in runs], dtype=np.float64)
        row[info.key], row[info.key + ERROR] = statistics.mean_and_error(values)
    return row


def _place(static: statistics.Floats, own: statistics.Floats, higher: list[bool]) -> str:
    ahead = sum(not statistics.non_dominated(np.stack([own, other]), higher)[0] for other in static)
    return f"behind {ahead} of {len(static)} static" if ahead else "not behind any"
