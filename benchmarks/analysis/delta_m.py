"""Delta-m: the mean change of a run's primary test metrics against a baseline, in percent; negative is better.

The baseline is the single-task runs (STL) of the same seed: tuned methods are held against tuned ones. Where a seed lacks
those, methods can still be compared with each other by their change against uniform weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.analysis.sections import Section
from benchmarks.records.schema import Floats, MetricInfo, Run


def changes_percent(values: Floats, baseline: Floats, higher_is_better: Sequence[bool]) -> Floats:
    """Change of each metric against the baseline in percent of the baseline's size; negative: better than the baseline.

    values, baseline: ``(..., M)``; higher_is_better: M. Returns ``(..., M)``, NaN where the baseline is 0 or missing.
    """
    sign = np.where(np.asarray(higher_is_better, dtype=bool), -1.0, 1.0)
    size = np.where(baseline == 0, math.nan, np.abs(baseline))
    return np.asarray(100.0 * sign * (values - baseline) / size, dtype=np.float64)


def over_metrics(changes: Floats) -> Floats:
    """Every metric counting the same (Nash-MTL, FAMO). changes: ``(..., M)``. Returns ``(...)``."""
    if changes.shape[-1] == 0:
        return np.full(changes.shape[:-1], math.nan)
    return np.asarray(changes.mean(axis=-1))


def over_tasks(changes: Floats, tasks: Sequence[str]) -> Floats:
    """Every task counting the same: mean within a task, then over tasks.

    changes: ``(..., M)``; tasks: the M metrics' tasks. Returns ``(...)``.
    """
    if changes.shape[-1] == 0:
        return np.full(changes.shape[:-1], math.nan)
    owner = np.asarray(tasks)
    within = [changes[..., owner == task].mean(axis=-1) for task in dict.fromkeys(tasks)]
    return np.asarray(np.stack(within, axis=-1).mean(axis=-1))


def judged_metrics(section: Section) -> list[MetricInfo]:
    """The metrics that enter: primary ones of a task."""
    return [info for info in section.primary if info.task is not None]


def changes_of(run: Run, judged: Sequence[MetricInfo], baseline: Floats) -> Floats:
    """``(M,)`` percent: a finished run's test metrics against a baseline ``(M,)``."""
    return changes_percent(values_on_test(run, judged), baseline, [info.higher_is_better for info in judged])


def values_on_test(run: Run, infos: Sequence[MetricInfo]) -> Floats:
    """``(M,)`` test metrics of a run, NaN where it has none."""
    test = run.record.metrics.get("test", {})
    return np.array([test.get(info.key, math.nan) for info in infos], dtype=np.float64)


def baselines(section: Section, tuned: bool = False) -> tuple[dict[int, Floats], list[str]]:
    """Seed -> ``(M,)`` single-task values of ``judged_metrics``, NaN where there is none; and warnings about the gaps.

    tuned: of the single-task runs at the setting that was chosen for them, not of those at the default.
    """
    judged = judged_metrics(section)
    values: dict[int, Floats] = {}
    missing: list[str] = []
    zero: list[str] = []
    for seed in section.seeds:
        row = []
        for info in judged:
            run = section.baseline(str(info.task), seed, tuned)
            value = math.nan if run is None else float(values_on_test(run, [info])[0])
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


def differences(new: Mapping[int, float], base: Mapping[int, float]) -> Floats:
    """New minus base on the seeds that both have, in the order of the seeds: ``(n,)``, negative is better."""
    return np.array([new[seed] - base[seed] for seed in sorted(new) if seed in base], dtype=np.float64)
