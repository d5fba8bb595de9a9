"""The same comparison by steps and by the clock: what each method reaches in the time that uniform weights take."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from benchmarks.analysis.relative_cost import middle, ratios
from benchmarks.analysis.sections import Section, uniform_runs
from benchmarks.analysis.selection_score import score
from benchmarks.analysis.statistics import mean_and_error
from benchmarks.analysis.table import ERROR, Column, Table
from benchmarks.records.schema import Run

CAPTION = (
    "Lowest mean over tasks of L_val / L_val(0) so far, as a change against uniform weights of the same seed in percent, "
    "negative: better. Equal steps: after all of them. Equal time: up to the last evaluation that fits into the training "
    "time of uniform weights, by the seconds per step relative to uniform (median over seeds); nobody gets more steps than "
    "were planned. On validation, since test is scored once. Mean ± standard error over seeds."
)


def equal_time_table(section: Section) -> Table | None:
    """One row per method; None without finished uniform runs."""
    uniform = {run.seed: run for run in uniform_runs(section)}
    rows = []
    for label in section.methods:
        pairs = [(run, uniform[run.seed]) for run in section.finished(label) if run.seed in uniform]
        if not pairs:
            continue
        planned = section.training.steps
        fitting = steps_in_time(planned, middle(ratios([run for run, _ in pairs], uniform.values())))
        row: dict[str, object] = {"method": label, "pairs": len(pairs), "steps": fitting}
        for name, limit in (("by_steps", planned), ("by_time", fitting)):
            changes = [100 * (lowest_score(run, limit) / lowest_score(base, planned) - 1) for run, base in pairs]
            row[name], row[name + ERROR] = mean_and_error(np.array(changes))
        rows.append(row)
    if not rows or all(math.isnan(float(str(row["by_steps"]))) for row in rows):
        return None
    shown = (
        Column("method", "method"),
        Column("pairs", "pairs"),
        Column("by_steps", "equal steps: change %", "lower", "equal steps %"),
        Column("steps", f"steps in uniform's time, of {section.training.steps}", None, "steps", decimals=0),
        Column("by_time", "equal time: change %", "lower", "equal time %"),
    )
    title = "Equal steps and equal time"
    return Table(f"{section.slug}_equal_time", title, CAPTION, shown, pd.DataFrame(rows))


def steps_in_time(planned: int, relative: float) -> float:
    """Steps that fit into uniform's time at a cost relative to it, at most those planned; NaN where it is not known."""
    return min(planned, math.floor(planned / relative)) if math.isfinite(relative) else math.nan


def lowest_score(run: Run, limit: float) -> float:
    """Lowest score (see ``analysis.selection_score``) among the evaluations up to a step.

    NaN where the limit is, where there is no score, and where a loss begins below 0: it has no share that is left, so there
    is no percentage of it.
    """
    steps, losses = run.values("val_loss")
    within = steps <= limit
    if not within.any() or (losses[0] < 0).any():
        return math.nan
    lowest = float(score(losses[within], losses[0]).min())
    return lowest if math.isfinite(lowest) else math.nan
