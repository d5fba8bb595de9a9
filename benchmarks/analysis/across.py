"""Across the problems of a suite: side by side, and one number for each method with what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.analysis import statistics
from benchmarks.analysis.comparable import UNIFORM
from benchmarks.analysis.scores import UNIFORM_CHANGE, Scores
from benchmarks.analysis.section_tables import (
    DELTAS,
    FINISHED,
    METHOD,
    PRICE,
    RANK,
    RELATIVE,
    SPREAD,
    SectionTables,
    seeds_note,
)
from benchmarks.analysis.table import ERROR, Column, Table
from benchmarks.records.schema import Floats

RESAMPLES = 2000
_COLUMNS = ["problem", "metric", "seed", "method", "change"]


@dataclass(frozen=True)
class Changes:
    """Every primary metric of every problem and seed as a change against uniform weights of the same seed."""

    frame: pd.DataFrame
    """Columns ``problem``, ``metric``, ``seed``, ``method``, ``change`` in percent, negative: better."""
    methods: tuple[str, ...]
    """Methods with a number everywhere, in the order of tables."""


def side_by_side(tables: Sequence[SectionTables]) -> Table:
    """One row for every problem and method: what can be put side by side across problems."""
    shown = (*DELTAS, RANK, SPREAD, PRICE, RELATIVE)
    rows = []
    for each in tables:
        frame = each.overview.frame
        wanted = [name for column in shown for name in (column.key, column.key + ERROR) if name in frame.columns]
        rows.append(frame[["method", "finished", *wanted]].assign(problem=each.scores.section.name))
    frame = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["method", "finished"])
    frame = frame.assign(
        **{key: np.nan for key in ("problem", *(column.key for column in shown)) if key not in frame.columns}
    )
    kept = tuple(column for column in shown if frame[column.key].notna().any())
    note = seeds_note()
    return Table(
        "overview",
        "Overview",
        f"{note[:1].upper()}{note[1:]}.",
        (Column("problem", "problem"), METHOD, FINISHED, *kept),
        frame,
    )


def changes(found: Sequence[Scores]) -> Changes:
    """The changes of all problems that have finished uniform runs."""
    parts = [_changes_of(each) for each in found]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)
    cells = frame[["problem", "metric", "seed"]].drop_duplicates()
    count = frame.groupby("method").size().to_dict()
    order = dict.fromkeys(method for each in found for method in each.section.methods)
    return Changes(frame, tuple(method for method in order if count.get(method, 0) == len(cells) > 0))


def _changes_of(scored: Scores) -> pd.DataFrame:
    """Of one problem: one row per run and metric, those without a number left out."""
    runs = scored.frame[scored.frame["role"] == "method"]
    metrics = [info.key for info in scored.judged]
    values = runs[[UNIFORM_CHANGE + key for key in metrics]].to_numpy(np.float64)
    frame = pd.DataFrame(
        {
            "problem": scored.section.name,
            "metric": np.tile(np.array(metrics, dtype=object), len(runs)),
            "seed": runs["seed"].to_numpy().repeat(len(metrics)),
            "method": runs["method"].to_numpy().repeat(len(metrics)),
            "change": values.ravel(),
        },
        columns=_COLUMNS,
    )
    return frame.drop(index=np.flatnonzero(~np.isfinite(values.ravel())).tolist())


def aggregate_table(found: Changes) -> Table | None:
    """Interquartile mean of the changes, one row per method; None for fewer than two problems or methods."""
    problems = list(dict.fromkeys(found.frame["problem"]))
    methods = [method for method in found.methods if method != UNIFORM]
    if len(problems) < 2 or not methods:
        return None
    rows = []
    for method in methods:
        own = found.frame[found.frame["method"] == method]
        values = own["change"].to_numpy(np.float64)
        low, high = _interval(own)
        better = float((values < 0).mean() + (values == 0).mean() / 2)
        rows.append(
            {
                "method": method,
                "values": len(values),
                "iqm": float(statistics.interquartile_mean(values)),
                "low": low,
                "high": high,
                "mean": float(values.mean()),
                "improvement": better,
            }
        )
    shown = (
        METHOD,
        Column("values", "values"),
        Column("iqm", "IQM of the changes %", "lower", "IQM %", decimals=2),
        Column("low", "95 % from", decimals=2),
        Column("high", "to", decimals=2),
        Column("mean", "mean of the changes %", "lower", "mean %", decimals=2),
        Column("improvement", "P(better)", "higher", decimals=2),
    )
    caption = (
        "Each primary metric of each problem and seed as a change against uniform weights of the same seed in percent, "
        "negative: better. IQM: mean of the middle half; its interval: bootstrap over the seeds of each problem. "
        f"P(better): share of values that are better, ties counting half. Over {len(problems)} problems, "
        f"{', '.join(problems)}; methods that finished everywhere."
    )
    return Table("aggregate", "Across the problems", caption, shown, pd.DataFrame(rows))


@dataclass(frozen=True)
class Profiles:
    """In what share of all changes a method is at most at a limit."""

    limits: Floats
    """``(T,)`` percent; one in fifty changes lies beyond on either side."""
    shares: dict[str, Floats]
    """Method -> ``(T,)``."""


def profiles(found: Changes) -> Profiles | None:
    """Of each method that finished everywhere but uniform; None for fewer than two problems."""
    methods = [method for method in found.methods if method != UNIFORM]
    if found.frame["problem"].nunique() < 2 or not methods:
        return None
    values = {method: np.sort(found.frame.loc[found.frame["method"] == method, "change"]) for method in methods}
    low, high = np.quantile(np.concatenate(list(values.values())), [0.02, 0.98])
    limits = np.linspace(low, high, 200)
    shares = {method: np.searchsorted(own, limits, side="right") / len(own) for method, own in values.items()}
    return Profiles(limits, shares)


def _interval(own: pd.DataFrame) -> tuple[float, float]:
    """Percentile interval of the interquartile mean, seeds drawn again within each problem."""
    draw = np.random.default_rng(0)
    by_problem = [
        group.pivot_table(index="seed", columns="metric", values="change").to_numpy(np.float64)
        for _, group in own.groupby("problem")
    ]
    resampled = [
        np.concatenate([values[draw.integers(0, len(values), len(values))].ravel() for values in by_problem])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(statistics.interquartile_mean(np.stack(resampled)), [0.025, 0.975])
    return float(low), float(high)
