"""What tuning and adapting are worth: every method at its default and at its best setting, and with its weights frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from benchmarks.analysis.delta_m import differences
from benchmarks.analysis.scores import Scores
from benchmarks.analysis.sections import Section
from benchmarks.analysis.statistics import mean_and_error
from benchmarks.analysis.table import ERROR, Column, Table
from benchmarks.analysis.verdict_tables import judged_rows
from benchmarks.records.schema import Run


def tuned_table(scored: Scores) -> Table | None:
    """Default and tuned side by side, one row per method; None where nothing was tuned."""
    section, usual, measured = scored.section, scored.measure, scored.tuned
    best = {label: scored.by_seed("tuned", label, measured) for label in section.methods}
    best = {label: values for label, values in best.items() if values}
    if not best:
        return None
    default, same = ({label: scored.by_seed("method", label, measure) for label in best} for measure in (usual, measured))
    judged = judged_rows(
        [differences(best[label], same[label]) for label in best], f"tuned minus default, both against {measured.against}"
    )
    rows = [
        {
            "method": label,
            "trials": _trials(section, label),
            "setting": _setting(section, label),
            **_mean("default", default[label]),
            **_mean("tuned", best[label]),
            **row,
        }
        for label, row in zip(best, judged.rows, strict=True)
    ]
    shown = (
        Column("method", "method"),
        Column("trials", "trials"),
        Column("setting", "chosen setting"),
        Column("default", f"{usual.header}, default, against {usual.against}", "lower", "default"),
        Column("tuned", f"{measured.header}, tuned, against {measured.against}", "lower", "tuned"),
        *judged.columns,
    )
    caption = (
        f"On test, default: {usual.header} at the default setting, against {usual.against}. Tuned: {measured.header} at the "
        "setting with the lowest mean relative validation loss among as many trials for each method and each single-task "
        "baseline, on a seed of their own (the defaults at each learning rate, then learning rates x published search "
        f"space), against {measured.against}. {judged.caption}"
    )
    notes = _settings_of_single_tasks(section)
    return Table(f"{section.slug}_tuned", "Default and tuned", caption, shown, pd.DataFrame(rows), notes=notes)


def frozen_table(scored: Scores) -> Table | None:
    """Adaptive and frozen side by side, one row per method; None where nothing was frozen."""
    section, measured = scored.section, scored.measure
    constant = {label: scored.by_seed("frozen", label, measured) for label in section.methods}
    constant = {label: values for label, values in constant.items() if values}
    if not constant:
        return None
    adaptive = {label: scored.by_seed("method", label, measured) for label in constant}
    judged = judged_rows(
        [differences(adaptive[label], constant[label]) for label in constant],
        "adaptive minus frozen, negative where adapting helps beyond the average",
    )
    rows = [
        {"method": label, **_mean("adaptive", adaptive[label]), **_mean("frozen", constant[label]), **row}
        for label, row in zip(constant, judged.rows, strict=True)
    ]
    shown = (
        Column("method", "method"),
        Column("adaptive", f"{measured.header}, adaptive", "lower", "adaptive"),
        Column("frozen", f"{measured.header}, frozen", "lower", "frozen"),
        *judged.columns,
    )
    caption = (
        "Frozen: trained again, seed by seed, with the method's own weights meaned over the steps and held fixed. "
        f"{judged.caption}"
    )
    return Table(f"{section.slug}_frozen", "Adaptive and frozen weights", caption, shown, pd.DataFrame(rows))


def _mean(name: str, values: Mapping[int, float]) -> dict[str, object]:
    mean, error = mean_and_error(np.array(list(values.values()), dtype=np.float64))
    return {name: mean, name + ERROR: error}


def _trials(section: Section, label: str) -> str:
    """How many, and how many of them did not finish."""
    every = [run for (name, _), runs in section.others.get("trial", {}).items() if name == label for run in runs]
    failed = sum(run.record.state != "finished" for run in every)
    return f"{len(every)} ({failed} failed)" if failed else str(len(every))


def _settings_of_single_tasks(section: Section) -> tuple[str, ...]:
    chosen = {task: section.of_role("single_task_tuned", task) for task in section.tasks}
    rates = [f"{task} lr={runs[0].record.run.training.lr:g}" for task, runs in chosen.items() if runs]
    return (f"Tuned STL: {', '.join(rates)}.",) if rates else ()


def _setting(section: Section, label: str) -> str:
    """The learning rate, and what differs from the method's run in the comparison."""
    chosen = section.of_role("tuned", label)[0].record.run
    default: Run | None = next(iter(section.finished(label)), None)
    usual = {} if default is None else default.record.run.weighter.hyperparameters
    changed = {name: value for name, value in chosen.weighter.hyperparameters.items() if usual.get(name, math.nan) != value}
    own = [f"{chosen.weighter.name}.{name}={value}" for name, value in changed.items()]
    return ", ".join([f"lr={chosen.training.lr:g}", *own])
