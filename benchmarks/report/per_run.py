"""One row of numbers for every finished run of a section: what all tables are averages of."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from benchmarks.record import MetricInfo, Run
from benchmarks.report import statistics
from benchmarks.report.cost import ratios, seconds_per_step
from benchmarks.report.loading import cube
from benchmarks.report.sections import Section, uniform_runs

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
    judged = [info for info in section.primary if info.task is not None]
    stl, warnings = baselines(section, judged)
    uniform = uniform_runs(section)
    rows = []
    for method in section.methods:
        relative = ratios(section.finished(method), uniform)
        for run in section.finished(method):
            test = run.record.metrics["test"]
            row: dict[str, object] = {"method": method, "seed": run.seed, "run": run.record.key}
            row |= {info.key: test.get(info.key, math.nan) for info in section.metrics}
            own = np.array([test.get(info.key, math.nan) for info in judged])
            changes = statistics.changes_percent(own, stl[run.seed], [info.higher_is_better for info in judged])
            row |= {f"change:{info.key}": change for info, change in zip(judged, changes, strict=True)}
            row[DELTA_METRICS] = float(statistics.delta_m_over_metrics(changes))
            row[DELTA_TASKS] = float(statistics.delta_m_over_tasks(changes, [str(info.task) for info in judged]))
            row[RELATIVE] = relative.get(run.seed, math.nan)
            rows.append(row | _convergence(run) | _cost(run))
    changes_names = [f"change:{info.key}" for info in judged]
    columns = ["method", "seed", "run", *[info.key for info in section.metrics], *changes_names, *NUMBERS]
    return pd.DataFrame(rows, columns=columns), warnings


def baselines(section: Section, judged: list[MetricInfo]) -> tuple[dict[int, statistics.Floats], list[str]]:
    """Seed -> ``(len(judged),)`` single-task values of the same seed, NaN where there is none."""
    values: dict[int, statistics.Floats] = {}
    missing: list[str] = []
    zero: list[str] = []
    for seed in section.seeds:
        row = []
        for info in judged:
            run = section.baseline(str(info.task), seed)
            value = math.nan if run is None else run.record.metrics.get("test", {}).get(info.key, math.nan)
            if math.isnan(value):
                missing.append(f"{info.task} (seed {seed})")
            elif value == 0:
                zero.append(f"{info.key} (seed {seed})")
            row.append(value)
        values[seed] = np.array(row, dtype=np.float64)
    warnings = []
    if judged and not section.single:
        warnings.append(f"{section.name}: no single-task runs, so no Δm")
    elif missing:
        listed = ", ".join(dict.fromkeys(missing))
        warnings.append(f"{section.name}: Δm is missing for want of the finished single-task run of {listed}")
    if zero:
        warnings.append(f"{section.name}: Δm is missing where the single-task value is 0: {', '.join(zero)}")
    return values, warnings


def _convergence(run: Run) -> dict[str, float]:
    selection = run.record.selection
    selected = -1 if selection is None else selection.step
    steps, losses = cube(run, "val_loss")
    return {
        SPREAD: statistics.convergence_spread(steps, losses, run.record.run.training.steps),
        PRICE: statistics.price_of_one_checkpoint(steps, losses, selected),
        SELECTED: float(selected),
        WEIGHT: statistics.mean_weight(cube(run, "weight")[1]),
    }


def _cost(run: Run) -> dict[str, float]:
    costs = run.record.costs
    return {
        SECONDS: seconds_per_step(run),
        FORWARDS: math.nan if costs is None else costs.extra_forwards,
        BACKWARDS: math.nan if costs is None else costs.extra_backwards,
        MEMORY: math.nan if costs is None or costs.peak_memory_mb is None else costs.peak_memory_mb,
    }
