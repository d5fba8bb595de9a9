"""One row of numbers for every finished run of a section: what all tables are averages of."""

from __future__ import annotations

import math

import pandas as pd

from benchmarks.analysis import delta_m, statistics
from benchmarks.analysis.relative_cost import ratios, seconds_per_step
from benchmarks.analysis.sections import Section, uniform_runs
from benchmarks.records.schema import Run

DELTA_METRICS = "delta_m_over_metrics"
DELTA_TASKS = "delta_m_over_tasks"
SPREAD = "convergence_spread"
PRICE = "price_of_one_checkpoint"
SELECTED = "selected_step"
SECONDS = "seconds_per_step"
RELATIVE = "relative_seconds"
FORWARDS = "extra_forwards"
BACKWARDS = "extra_backwards"
MEMORY = "peak_memory_mb"
WEIGHT = "mean_weight"
NUMBERS = (DELTA_METRICS, DELTA_TASKS, SPREAD, PRICE, SELECTED, SECONDS, RELATIVE, FORWARDS, BACKWARDS, MEMORY, WEIGHT)


def per_run(section: Section) -> tuple[pd.DataFrame, list[str]]:
    """Columns ``method``, ``seed``, the test metrics by key, ``change:<metric>`` in percent, and ``NUMBERS``.

    Returns the rows, ordered as the section's methods and seeds, and warnings about baselines that are missing.
    """
    judged = delta_m.judged_metrics(section)
    stl, warnings = delta_m.baselines(section)
    uniform = uniform_runs(section)
    rows = []
    for method in section.methods:
        relative = ratios(section.finished(method), uniform)
        for run in section.finished(method):
            test = run.record.metrics["test"]
            row: dict[str, object] = {"method": method, "seed": run.seed, "run": run.record.key}
            row |= {info.key: test.get(info.key, math.nan) for info in section.metrics}
            changes = delta_m.changes_of(run, judged, stl[run.seed])
            row |= {f"change:{info.key}": change for info, change in zip(judged, changes, strict=True)}
            row[DELTA_METRICS] = float(delta_m.over_metrics(changes))
            row[DELTA_TASKS] = float(delta_m.over_tasks(changes, [str(info.task) for info in judged]))
            row[RELATIVE] = relative.get(run.seed, math.nan)
            rows.append(row | _convergence(run) | _cost(run))
    changes_names = [f"change:{info.key}" for info in judged]
    columns = ["method", "seed", "run", *[info.key for info in section.metrics], *changes_names, *NUMBERS]
    return pd.DataFrame(rows, columns=columns), warnings


def _convergence(run: Run) -> dict[str, float]:
    selection = run.record.selection
    selected = -1 if selection is None else selection.step
    steps, losses = run.values("val_loss")
    return {
        SPREAD: statistics.convergence_spread(steps, losses, run.record.run.training.steps),
        PRICE: statistics.price_of_one_checkpoint(steps, losses, selected),
        SELECTED: float(selected),
        WEIGHT: statistics.mean_weight(run.values("weight")[1]),
    }


def _cost(run: Run) -> dict[str, float]:
    costs = run.record.costs
    return {
        SECONDS: seconds_per_step(run),
        FORWARDS: math.nan if costs is None else costs.extra_forwards,
        BACKWARDS: math.nan if costs is None else costs.extra_backwards,
        MEMORY: math.nan if costs is None or costs.peak_memory_mb is None else costs.peak_memory_mb,
    }
