"""Across the problems of a suite: side by side, and one number for each method with what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata

from benchmarks.analysis import delta_m, statistics
from benchmarks.analysis.comparable import UNIFORM
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
from benchmarks.analysis.sections import Section, uniform_runs
from benchmarks.analysis.table import ERROR, Column, Table

RESAMPLES = 2000
USEFUL = 0.5
"""A critical difference above this share of the largest possible one separates hardly anybody."""


@dataclass(frozen=True)
class Changes:
    """Every primary metric of every problem and seed as a change against uniform weights of the same seed."""

    frame: pd.DataFrame
    """Columns ``problem``, ``metric``, ``seed``, ``method``, ``change`` in percent, negative: better."""
    methods: tuple[str, ...]
    """Methods with a number everywhere, in the order of tables."""


@dataclass(frozen=True)
class Ranking:
    """Friedman's test over problems and Nemenyi's critical difference."""

    ranks: dict[str, float]
    p_value: float
    critical: float
    blocks: int


def side_by_side(sections: Sequence[Section], tables: Sequence[SectionTables]) -> Table:
    """One row for every problem and method: what can be put side by side across problems."""
    shown = (*DELTAS, RANK, SPREAD, PRICE, RELATIVE)
    rows = []
    for section, each in zip(sections, tables, strict=True):
        frame = each.overview.frame
        wanted = [name for column in shown for name in (column.key, column.key + ERROR) if name in frame.columns]
        rows.append(frame[["method", "finished", *wanted]].assign(problem=section.name))
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


def changes(sections: Sequence[Section]) -> Changes:
    """The changes of all problems that have finished uniform runs."""
    rows: list[dict[str, object]] = []
    for section in sections:
        judged = delta_m.judged_metrics(section)
        base = {run.seed: delta_m.values_on_test(run, judged) for run in uniform_runs(section)}
        for method in section.methods:
            for run in section.finished(method):
                if run.seed not in base or not judged:
                    continue
                found = delta_m.changes_of(run, judged, base[run.seed])
                rows += [
                    {
                        "problem": section.name,
                        "metric": info.key,
                        "seed": run.seed,
                        "method": method,
                        "change": float(change),
                    }
                    for info, change in zip(judged, found, strict=True)
                ]
    frame = pd.DataFrame(rows, columns=["problem", "metric", "seed", "method", "change"])
    frame = frame[np.isfinite(frame["change"].to_numpy(np.float64))]
    cells = frame[["problem", "metric", "seed"]].drop_duplicates()
    count = frame.groupby("method").size().to_dict()
    order = dict.fromkeys(method for section in sections for method in section.methods)
    return Changes(frame, tuple(method for method in order if count.get(method, 0) == len(cells) > 0))


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
    notes = [ranking_note(found)]
    return Table("aggregate", "Across the problems", caption, shown, pd.DataFrame(rows), notes=tuple(notes))


def ranking(found: Changes) -> Ranking | None:
    """Friedman's test with the problems as blocks; None below 3 methods or 3 problems."""
    wide = found.frame[found.frame["method"].isin(found.methods)]
    means = wide.pivot_table(index="problem", columns="method", values="change", aggfunc="mean")[list(found.methods)]
    blocks, methods = means.shape
    if methods < 3 or blocks < 3:
        return None
    values = means.to_numpy(np.float64)
    ranks = np.asarray(rankdata(values, axis=1)).mean(axis=0)
    return Ranking(
        ranks=dict(zip(found.methods, ranks.tolist(), strict=True)),
        p_value=float(friedmanchisquare(*values.T).pvalue),
        critical=statistics.critical_difference(methods, blocks),
        blocks=blocks,
    )


def useful(result: Ranking) -> bool:
    """Whether there are enough problems for a critical difference to separate anybody."""
    return result.critical <= USEFUL * (len(result.ranks) - 1)


def ranking_note(found: Changes) -> str:
    """What Friedman's test says, or why it is not asked."""
    blocks, methods = found.frame["problem"].nunique(), len(found.methods)
    result = ranking(found)
    if result is not None and useful(result):
        return (
            f"Friedman's test over {blocks} problems and {methods} methods: p = {result.p_value:.3g}; critical difference "
            f"of mean ranks (Nemenyi, 0.05): {result.critical:.2f}."
        )
    if methods < 3:
        return "No Friedman test: it needs at least 3 methods."
    largest = methods - 1
    need = next(n for n in range(3, 10_000) if statistics.critical_difference(methods, n) <= USEFUL * largest)
    return (
        f"No Friedman test and no critical-difference diagram: over {blocks} problems only mean ranks "
        f"{statistics.critical_difference(methods, blocks):.2f} apart would differ, of {largest} at most; with {need} "
        "problems it would be half of the most."
    )


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
