"""One number for a run, so that two methods can be compared seed by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.record import Run
from benchmarks.report import statistics
from benchmarks.report.per_run import baselines
from benchmarks.report.sections import Section, uniform_runs


@dataclass(frozen=True)
class Measure:
    """Lower is better; NaN where a run did not finish or the baseline of its seed is missing."""

    header: str
    of: Callable[[Run], float]


def measure(section: Section) -> Measure:
    """Delta-m against the single-task runs, mean over metrics; against the uniform runs where a seed lacks those."""
    judged = [info for info in section.primary if info.task is not None]
    higher = [info.higher_is_better for info in judged]
    base, _ = baselines(section, judged)
    header = "Δm %"
    if not judged or any(not np.isfinite(values).all() for values in base.values()):
        header = "change against uniform %"
        base = {
            run.seed: np.array([run.record.metrics["test"].get(info.key, math.nan) for info in judged])
            for run in uniform_runs(section)
        }

    def of(run: Run) -> float:
        if run.record.state != "finished" or run.seed not in base:
            return math.nan
        own = np.array([run.record.metrics["test"].get(info.key, math.nan) for info in judged])
        return float(statistics.delta_m_over_metrics(statistics.changes_percent(own, base[run.seed], higher)))

    return Measure(header, of)


def by_seed(measured: Measure, runs: list[Run]) -> dict[int, float]:
    """Seed -> number of the run of that seed."""
    return {run.seed: measured.of(run) for run in runs}


def differences(new: Mapping[int, float], base: Mapping[int, float]) -> statistics.Floats:
    """New minus base on the seeds that both have, in the order of the seeds: ``(n,)``, negative is better."""
    return np.array([new[seed] - base[seed] for seed in sorted(new) if seed in base], dtype=np.float64)
