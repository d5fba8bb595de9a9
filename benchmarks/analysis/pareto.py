"""Static weights over the simplex as a Pareto front, with the methods' points beside it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from benchmarks.analysis import statistics
from benchmarks.analysis.scores import Scores
from benchmarks.analysis.sections import Section
from benchmarks.analysis.table import ERROR, Column, Table
from benchmarks.records.schema import Floats, MetricInfo


def front_table(scored: Scores) -> Table | None:
    """One row for each static weighting, then for each method; None where the simplex was not covered.

    Columns ``label``, ``kind`` ("static" | "method"), the metrics, and ``place``: on the front of the static weightings, or
    how many of them are at least as good in every metric and better in one.
    """
    section, infos = scored.section, scored.judged
    static = [_row(scored, label, "static") for label in _labels(section)]
    if len(static) < 2 or not infos:
        return None
    methods = [_row(scored, label, "method") for label in section.methods if section.finished(label)]
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
    shown = (Column("label", "weights or method"), Column("finished", "n", right=True), *metrics, Column("place", "place"))
    caption = (
        f"Static weights over the simplex (n: finished runs) and the methods, mean ± standard error over seeds. "
        f"{int(frame['on_front'].sum())} of {count} static weightings are on their Pareto front over {len(infos)} metrics: "
        "none other is as good in all and better in one. A method behind the front is beaten by constants that somebody had "
        "to find."
    )
    return Table(f"{section.slug}_front", "Static weights and the Pareto front", caption, shown, frame)


def front_line(frame: pd.DataFrame, first: MetricInfo, second: MetricInfo) -> Floats:
    """The front of the static weightings in two metrics alone: ``(n, 2)``, in the order of the first metric.

    frame: of ``front_table``.
    """
    points = frame.loc[frame["kind"] == "static", [first.key, second.key]].to_numpy(np.float64)
    front = points[statistics.non_dominated(points, [first.higher_is_better, second.higher_is_better])]
    return front[np.argsort(front[:, 0])]


def _labels(section: Section) -> list[str]:
    found = {label: runs[0] for (label, _), runs in section.others.get("simplex", {}).items()}
    return sorted(found, key=lambda label: found[label].record.run.weighter.hyperparameters["weights"])


def _row(scored: Scores, label: str, kind: Literal["static", "method"]) -> dict[str, object]:
    runs = scored.of("simplex" if kind == "static" else "method", label)
    finished = f"{len(runs)}/{len(scored.section.seeds)}"
    row: dict[str, object] = {"label": label, "method": label, "kind": kind, "finished": finished}
    for info in scored.judged:
        row[info.key], row[info.key + ERROR] = statistics.mean_and_error(runs[info.key].to_numpy(np.float64))
    return row


def _place(static: Floats, own: Floats, higher: list[bool]) -> str:
    ahead = sum(not statistics.non_dominated(np.stack([own, other]), higher)[0] for other in static)
    return f"behind {ahead} of {len(static)} static" if ahead else "not behind any"
