"""What tuning and adapting are worth: every method at its default and at its best setting, and with its weights frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from benchmarks.record import Run
from benchmarks.report.measure import by_seed, differences, measure
from benchmarks.report.paired import paired
from benchmarks.report.sections import UNIFORM, Section
from benchmarks.report.statistics import mean_and_error
from benchmarks.report.table import ERROR, Column, Table
from benchmarks.report.verdicts import EXPLAINED, PAIRED, paired_row


def tuned_table(section: Section) -> Table | None:
    """Default and tuned side by side, one row per method; None where nothing was tuned."""
    measured = measure(section)
    methods = [label for label in section.methods if section.of_role("tuned", label)]
    if not methods:
        return None
    best = {label: by_seed(measured, section.of_role("tuned", label)) for label in methods}
    uniform = next((best[label] for label in methods if label.partition("[")[0] == UNIFORM), {})
    rows = []
    for label in methods:
        default = by_seed(measured, section.finished(label))
        gap = differences(best[label], default)
        row: dict[str, object] = {"method": label, "trials": _trials(section, label), "setting": _setting(section, label)}
        row |= _mean("default", default) | _mean("tuned", best[label]) | paired_row(paired(gap), gap)
        against = differences(best[label], uniform)
        row["against"], row["against" + ERROR] = mean_and_error(against)
        rows.append(row)
    shown = (
        Column("method", "method"),
        Column("trials", "trials"),
        Column("setting", "chosen setting"),
        Column("default", f"{measured.header}, default", "lower", "default"),
        Column("tuned", f"{measured.header}, tuned", "lower", "tuned"),
        *PAIRED,
        Column("against", "tuned against tuned uniform", "lower", "against tuned uniform"),
    )
    caption = (
        f"{measured.header} on test at the defaults and at the setting with the lowest mean relative validation loss among "
        f"as many trials for each method (learning rates x published search space) on a seed of their own. {EXPLAINED}"
    )
    return Table(f"{section.slug}_tuned", "Default and tuned", caption, shown, pd.DataFrame(rows))


def frozen_table(section: Section) -> Table | None:
    """Adaptive and frozen side by side, one row per method; None where nothing was frozen."""
    measured = measure(section)
    rows = []
    for label in section.methods:
        constant = by_seed(measured, section.of_role("frozen", label))
        if not constant:
            continue
        adaptive = by_seed(measured, section.finished(label))
        gap = differences(adaptive, constant)
        row: dict[str, object] = {"method": label, "pairs": len(gap)}
        rows.append(row | _mean("adaptive", adaptive) | _mean("frozen", constant) | paired_row(paired(gap), gap))
    if not rows:
        return None
    shown = (
        Column("method", "method"),
        Column("pairs", "pairs"),
        Column("adaptive", f"{measured.header}, adaptive", "lower", "adaptive"),
        Column("frozen", f"{measured.header}, frozen", "lower", "frozen"),
        *PAIRED,
    )
    caption = (
        "Frozen: trained again, seed by seed, with the method's own weights meaned over the steps and held fixed. Change: "
        f"adaptive minus frozen, negative where adapting helps beyond the average. {EXPLAINED}"
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


def _setting(section: Section, label: str) -> str:
    """The learning rate, and what differs from the method's run in the comparison."""
    chosen = section.of_role("tuned", label)[0].record.run
    default: Run | None = next(iter(section.finished(label)), None)
    usual = {} if default is None else default.record.run.weighter.hyperparameters
    changed = {name: value for name, value in chosen.weighter.hyperparameters.items() if usual.get(name, math.nan) != value}
    own = [f"{chosen.weighter.name}.{name}={value}" for name, value in changed.items()]
    return ", ".join([f"lr={chosen.training.lr:g}", *own])
