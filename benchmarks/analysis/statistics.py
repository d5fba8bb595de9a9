"""The arithmetic of the tables: pure functions on arrays. Missing numbers are NaN, and what rests on one is NaN too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, trim_mean

from benchmarks.records.schema import Floats


def mean_and_error(values: Floats) -> tuple[float, float]:
    """Mean and standard error (sample standard deviation / sqrt(n)).

    values: ``(n,)``. The error is NaN for n < 2, the mean is NaN for n = 0; a NaN among the values makes both NaN, so that
    no mean silently stands for fewer runs than its row says.
    """
    if values.size == 0 or not np.isfinite(values).all():
        return math.nan, math.nan
    if values.size == 1:
        return float(values[0]), math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))


def band(values: Floats) -> tuple[Floats, Floats]:
    """Mean and standard error over the first axis, for curves, of those that have a value.

    values: ``(n, T)``. Returns ``(T,)`` twice; NaN where no curve has a value, and the error where fewer than two have.
    Raises ValueError for n = 0.
    """
    if len(values) == 0:
        raise ValueError("expected at least one curve, found none")
    known = np.isfinite(values)
    number = known.sum(axis=0)
    mean = present_mean(values, 0)
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(squares / (number - 1) / number)
    return mean, np.where(number > 1, error, math.nan)


def present_mean(values: Floats, axis: int) -> Floats:
    """Mean over an axis of the numbers that are there; NaN where there is none."""
    known = np.isfinite(values)
    number = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.asarray(np.where(number > 0, total / np.maximum(number, 1), math.nan))


def mean_ranks(values: Floats, higher_is_better: Sequence[bool]) -> Floats:
    """Rank of each method within this pool, averaged over the metrics; 1 is best and ties share their mean rank.

    values: ``(methods, M)``; higher_is_better: M. Returns ``(methods,)``. A metric that lacks a method's value ranks nobody.
    """
    sign = np.where(np.asarray(higher_is_better, dtype=bool), -1.0, 1.0)
    complete = np.isfinite(values).all(axis=0)
    if not complete.any() or len(values) == 0:
        return np.full(len(values), math.nan)
    return np.asarray(rankdata((sign * values)[:, complete], axis=0).mean(axis=1), dtype=np.float64)


def non_dominated(values: Floats, higher_is_better: Sequence[bool]) -> NDArray[np.bool_]:
    """Which points no other point is at least as good as in every metric and better in one: the Pareto front.

    values: ``(points, M)``; higher_is_better: M. Returns ``(points,)``; a point with a NaN is not on the front.
    """
    known = np.asarray(np.isfinite(values).all(axis=1))
    losses = np.where(np.asarray(higher_is_better, dtype=bool), -values, values)
    losses = np.where(known[:, None], losses, math.inf)
    beaten = np.zeros(len(losses), dtype=np.bool_)
    for point, own in enumerate(losses):
        no_worse = np.all(losses <= own, axis=1)
        beaten[point] = bool(np.any(no_worse & np.any(losses < own, axis=1)))
    return np.asarray(known & ~beaten)


def interquartile_mean(values: Floats) -> Floats:
    """Mean of the middle half, to which outliers do not belong (Agarwal et al., NeurIPS 2021).

    values: ``(..., n)``, no NaN. Returns ``(...)``, NaN for n = 0.
    """
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], math.nan)
    return np.asarray(trim_mean(values, 0.25, axis=-1), dtype=np.float64)


def convergence_spread(steps: NDArray[np.int64], losses: Floats, total: int) -> float:
    """(Latest minus earliest step at which a task's validation loss is lowest) / total, meaned over replicas.

    steps: ``(T,)``; losses: ``(T, R, K)``, NaN where not measured. The first of equal lowest losses counts.
    """
    if len(steps) == 0 or total < 1:
        return math.nan
    known = np.where(np.isfinite(losses), losses, math.inf)
    if not np.isfinite(known.min(axis=0)).all():
        return math.nan
    at = steps[known.argmin(axis=0)]
    return float((at.max(axis=-1) - at.min(axis=-1)).mean() / total)


def price_of_one_checkpoint(steps: NDArray[np.int64], losses: Floats, selected: int) -> float:
    """Mean over tasks and replicas of (loss at the selected step - the task's lowest) / |that lowest|.

    steps: ``(T,)``; losses: ``(T, R, K)``. NaN if the selected step was not measured or a lowest loss is 0.
    """
    place = np.flatnonzero(steps == selected)
    if len(place) == 0:
        return math.nan
    lowest = np.where(np.isfinite(losses), losses, math.inf).min(axis=0)
    size = np.where((lowest == 0) | ~np.isfinite(lowest), math.nan, np.abs(lowest))
    return float(((losses[place[0]] - lowest) / size).mean())


def mean_weight(weights: Floats) -> float:
    """Mean weight of the tasks that are there, over steps and replicas: a factor on the learning rate, 1 for a sum of K.

    weights: ``(T, R, K)``, NaN where a task is absent.
    """
    means = present_mean(weights, -1)
    known = means[np.isfinite(means)]
    return float(known.mean()) if known.size else math.nan


def windows(values: Floats, limit: int) -> Floats:
    """At most ``limit`` means over consecutive windows of the first axis, of what is there. values: ``(T, ...)``."""
    size = max(1, math.ceil(len(values) / limit))
    starts = np.arange(0, len(values), size)
    known = np.isfinite(values)
    counts = np.add.reduceat(known.astype(np.int64), starts, axis=0)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), math.nan))
