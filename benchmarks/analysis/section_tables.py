"""The tables of a section: what they hold. How they are written is in ``formatting``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.analysis import scores, statistics
from benchmarks.analysis.ablation import settings_table
from benchmarks.analysis.equal_time import equal_time_table
from benchmarks.analysis.pareto import front_table
from benchmarks.analysis.relative_cost import APART, pairings, without_pair
from benchmarks.analysis.scores import Scores
from benchmarks.analysis.sections import STL, Section, uniform_runs
from benchmarks.analysis.table import ERROR, Column, Table
from benchmarks.analysis.tuning import frozen_table, tuned_table
from benchmarks.analysis.verdict_tables import verdict_tables
from benchmarks.records.schema import MetricInfo, Run

SIGN = "negative: better than STL"


@dataclass(frozen=True)
class SectionTables:
    """All tables of a section."""

    scores: Scores
    """What they are averages of: every number once more, by run."""
    overview: Table
    verdicts: tuple[Table, ...]
    """Every method against uniform weights; none where there is nothing to compare with. Among the others too."""
    front: Table | None
    """Static weights over the simplex, where the suite asks for them; among the others too."""
    others: tuple[Table, ...]
    settings: Table | None
    """Settings of one method side by side, where there are any; one of the others."""


METHOD = Column("method", "method")
FINISHED = Column("finished", "n", right=True)
DELTAS = (
    Column(scores.DELTA_METRICS, f"Δm % ({SIGN}), mean over metrics", "lower", "Δm % metrics", opens_block=True),
    Column(scores.DELTA_TASKS, f"Δm % ({SIGN}), mean over tasks", "lower", "Δm % tasks"),
)
RANK = Column("mean_rank", "mean rank", "lower", "mean rank", decimals=2)
SPREAD = Column(scores.SPREAD, "convergence spread", "lower", "spread")
PRICE = Column(scores.PRICE, "price of one checkpoint", "lower", "price")
SELECTED = Column(scores.SELECTED, "selected step")
SECONDS = Column(scores.SECONDS, "s/step", "lower")
RELATIVE = Column(scores.RELATIVE, "s/step relative to uniform", "lower", "s/step, uniform=1", decimals=2)
PAIRS = Column("cost_pairs", "pairs", decimals=0)
COSTS = (
    Column(scores.FORWARDS, "extra forwards per step", decimals=2),
    Column(scores.BACKWARDS, "extra backwards per step", decimals=2),
    Column(scores.MEMORY, "peak memory (MB)", decimals=0),
    Column(scores.WEIGHT, "sum of weights / K", decimals=3),
)


def section_tables(section: Section) -> SectionTables:
    """Every table of a section, from its runs."""
    found = scores.scores(section)
    summary = _summary(found)
    verdicts = verdict_tables(found)
    front = front_table(found)
    settings = settings_table(found)
    tables = [
        settings,
        *verdicts,
        tuned_table(found),
        frozen_table(found),
        front,
        _metrics_table(section, summary, _stl_row(found)),
        *(table(section, summary) for table in (_delta_table, _convergence_table, _cost_table) if section.methods),
        equal_time_table(section),
        *(table for table in (_flags_table(section), _failures_table(section)) if len(table.frame)),
    ]
    others = tuple(table for table in tables if table is not None)
    return SectionTables(found, _overview_table(section, summary), verdicts, front, others, settings)


def seeds_note() -> str:
    """What the n of a table counts."""
    return "mean ± standard error over seeds; n: finished runs of seeds planned"


def _summary(found: Scores) -> pd.DataFrame:
    """One row per method, finished or not: for every number of a run its mean and its standard error."""
    section, runs = found.section, found.methods
    rows: list[dict[str, object]] = []
    for method in section.methods:
        own = runs[runs["method"] == method]
        row: dict[str, object] = {"method": method, "finished": f"{len(own)}/{len(section.seeds)}"}
        for key in runs.columns.drop(["method", "seed", "run"]):
            row[key], row[key + ERROR] = statistics.mean_and_error(own[key].to_numpy(np.float64))
        # Timings have outliers to one side only, and one of them moves a mean of three.
        for key in (scores.SECONDS, scores.RELATIVE):
            row[key] = _median(own[key])
        for key in (scores.SECONDS, scores.RELATIVE, scores.FORWARDS, scores.BACKWARDS, scores.MEMORY):
            del row[key + ERROR]
        rows.append(row)
    frame = pd.DataFrame(rows)
    return _ranked(section, _with_columns(frame, ("method", "finished", RANK.key)))


def _ranked(section: Section, frame: pd.DataFrame) -> pd.DataFrame:
    """With mean ranks of the pool's means; NaN outside the pool."""
    inside = frame["method"].isin(section.pool)
    keys = [info.key for info in section.primary]
    if inside.any() and keys:
        values = frame.loc[inside, keys].to_numpy(np.float64)
        frame.loc[inside, RANK.key] = statistics.mean_ranks(values, [info.higher_is_better for info in section.primary])
    return frame


def _stl_row(found: Scores) -> dict[str, object] | None:
    """Means of the single-task runs, each metric from its task's runs."""
    section = found.section
    if not section.single:
        return None
    runs = {task: found.of("single_task", task) for task in section.tasks}
    row: dict[str, object] = {"method": STL}
    for info in section.metrics:
        if info.task in runs:
            values = runs[info.task][info.key].to_numpy(np.float64)
            row[info.key], row[info.key + ERROR] = statistics.mean_and_error(values)
    row["finished"] = f"{min(map(len, runs.values()))}/{len(section.seeds)}"
    return row


def _metrics_table(section: Section, summary: pd.DataFrame, stl: dict[str, object] | None) -> Table:
    frame = summary
    if stl is not None:
        frame = pd.concat([pd.DataFrame([stl]), summary], ignore_index=True) if len(summary) else pd.DataFrame([stl])
    shown = tuple(metric_column(info) for info in section.metrics)
    frame = _with_columns(frame, tuple(column.key for column in shown))
    caption = f"Test metrics at the selected step ({_rule(section)}); {seeds_note()}."
    notes = [] if stl is None else ["STL: one model for each task alone; n: of the task with the fewest runs. Not ranked."]
    secondary = [info.key for info in section.metrics if not info.primary]
    if secondary:
        notes.append(f"No part of Δm and of the mean rank: {', '.join(secondary)}.")
    return _table(section, "metrics", "Test metrics", caption, (METHOD, FINISHED, *shown), frame, notes)


def _delta_table(section: Section, summary: pd.DataFrame) -> Table:
    judged = [info for info in section.primary if info.task is not None]
    changes = tuple(Column(scores.CHANGE + info.key, f"{info.key} %", "lower") for info in judged)
    caption = (
        f"Change of each primary test metric against the single-task run (STL) of the same seed and task, in percent, "
        f"{SIGN} whichever way the metric points; Δm is its mean over metrics, or within each task and then over tasks. "
        f"{_sentence(seeds_note())} {pool_note(section)} Selection: {_rule(section)}."
    )
    keys = sorted({run.record.key for run in section.single.values() if run.record.state == "finished"})
    notes = [f"STL baselines: {', '.join(keys) if keys else 'none'}."]
    shown = (METHOD, FINISHED, *DELTAS, RANK, *changes)
    return _table(section, "delta_m", "Δm and mean rank", caption, shown, summary, notes)


def _convergence_table(section: Section, summary: pd.DataFrame) -> Table:
    caption = (
        "Convergence spread: latest minus earliest step at which a task's validation loss is lowest, by the number of "
        f"steps ({section.training.steps}). Price of one checkpoint: mean over tasks of (validation loss at the selected "
        f"step - its lowest) / |its lowest|. {_sentence(seeds_note())} Selection: {_rule(section)}."
    )
    shown = (METHOD, FINISHED, SPREAD, PRICE, SELECTED)
    return _table(section, "convergence", "How evenly the tasks converged", caption, shown, summary)


def _cost_table(section: Section, summary: pd.DataFrame) -> Table:
    uniform = uniform_runs(section)
    relative = (RELATIVE, PAIRS) if uniform else ()
    caption = (
        "Seconds per step: median over the steps of a run, then over seeds; evaluation and logging are not counted, nor are "
        "runs that had to wait for a processor. Relative: to the uniform run of the same seed, median over the pairs of "
        f"runs that were trained together, at most {APART.total_seconds() / 60:g} minutes apart on one machine. Extra "
        "forwards and backwards: beyond those of the weighted total. Sum of weights / K: mean over the steps; it acts as a "
        f"factor on the learning rate. {_sentence(seeds_note())}"
    )
    found = {method: pairings(section.finished(method), uniform) for method in section.methods}
    counts = summary["method"].map({method: sum(not pair.why for pair in pairs.values()) for method, pairs in found.items()})
    summary = summary.assign(**{PAIRS.key: counts})
    notes = [f"Not paired: {text}." for text in without_pair(found)] if uniform else ["No uniform run to compare with."]
    return _table(section, "cost", "Cost", caption, (METHOD, FINISHED, SECONDS, *relative, *COSTS), summary, notes)


def flagged(section: Section) -> list[tuple[str, str, list[Run]]]:
    """(method, flag, runs that carry it), methods in the section's order, flags by name."""
    found = []
    for method in section.methods:
        runs = [run for seed in section.seeds if (run := section.runs.get((method, seed))) is not None]
        for name in sorted({flag.name for run in runs for flag in run.record.flags}):
            found.append((method, name, [run for run in runs if any(flag.name == name for flag in run.record.flags)]))
    return found


def _flags_table(section: Section) -> Table:
    rows = []
    for method, name, runs in flagged(section):
        flags = [flag for run in runs for flag in run.record.flags if flag.name == name]
        worst = max(flags, key=lambda flag: flag.steps or 0)
        seeds = ", ".join(str(run.seed) for run in runs)
        rows.append({"method": method, "flag": name.replace("_", " "), "seeds": seeds, "what": worst.text})
    shown = tuple(Column(key, key) for key in ("method", "flag", "seeds", "what"))
    frame = pd.DataFrame(rows, columns=[column.key for column in shown])
    caption = "What the harness noticed in the runs, in the words of the seed with most such steps."
    return _table(section, "flags", "Flags", caption, shown, frame)


def _failures_table(section: Section) -> Table:
    named = [(method, run) for (method, _), run in sorted(section.runs.items())]
    named += [(f"{STL} {task}", run) for (task, _), run in sorted(section.single.items())]
    rows = [_failure(run, name) for name, run in named if run.record.state != "finished"]
    for run, why in section.excluded:
        rows.append(_failure(run, run.label) | {"state": "left out", "reason": why, "step": math.nan})
    shown = tuple(Column(key, key) for key in ("method", "seed", "state", "step", "reason", "run"))
    frame = pd.DataFrame(rows, columns=[column.key for column in shown])
    return _table(section, "failures", "Failed runs", "Runs that are in no mean.", shown, frame)


def _failure(run: Run, method: str) -> dict[str, object]:
    record = run.record
    step = math.nan if record.failed_step is None else record.failed_step
    state = record.state.replace("_", " ")
    return {"method": method, "seed": run.seed, "state": state, "step": step, "reason": record.reason, "run": record.key}


def _overview_table(section: Section, summary: pd.DataFrame) -> Table:
    speed = RELATIVE if uniform_runs(section) else SECONDS
    # Numbers of the whole model belong here too, unless they are one of a series, like ``gap[start 1]``.
    wanted = [info for info in section.metrics if info.primary or (info.task is None and "[" not in info.name)]
    shown = (METHOD, FINISHED, *map(metric_column, wanted), *DELTAS, RANK, SPREAD, PRICE, speed)
    caption = f"{_sentence(seeds_note())} {pool_note(section)} Selection: {_rule(section)}."
    return _table(section, "overview", section.name, caption, shown, _with_columns(summary, tuple(c.key for c in shown)))


def metric_column(info: MetricInfo) -> Column:
    """The column of a test metric."""
    # Where there is little room, a header may break after the task.
    short = info.name if info.task is None else f"{info.task}/ {info.name}"
    return Column(info.key, info.key, "higher" if info.higher_is_better else "lower", short)


def pool_note(section: Section) -> str:
    """Which methods the mean rank is among."""
    number = len(section.primary)
    listed = ", ".join(section.pool) or "none"
    return f"Mean rank over {number} metric{'s' * (number != 1)} among those that finished on all seeds: {listed}."


def _rule(section: Section) -> str:
    rule = section.training.selection.replace("_", " ")
    return f"ORACLE, {rule}: no fair comparison with other rules" if rule.startswith("oracle") else rule


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _median(values: pd.Series) -> float:
    known = values.dropna()
    return float(known.median()) if len(known) else math.nan


def _with_columns(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The frame, with NaN in the columns that it lacks."""
    return frame.assign(**{key: math.nan for key in keys if key not in frame.columns})


def _table(
    section: Section,
    name: str,
    title: str,
    caption: str,
    shown: tuple[Column, ...],
    frame: pd.DataFrame,
    notes: Sequence[str] = (),
) -> Table:
    ranked = tuple(int(row) for row in np.flatnonzero(frame["method"].isin(section.pool).to_numpy()))
    # Mark a best value only if at least two methods are ranked.
    return Table(f"{section.slug}_{name}", title, caption, shown, frame, ranked if len(ranked) > 1 else (), tuple(notes))
