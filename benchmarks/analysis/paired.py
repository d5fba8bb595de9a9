"""Two methods compared over the same seeds: how large the difference is, how sure, and whether a test is possible at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, permutation_test

from benchmarks.records.schema import Floats

LEVEL = 0.05
"""Below which p counts."""
MIN_PAIRS = 6
"""2 / 2^n, the smallest two-sided p of n pairs, is below ``LEVEL`` from here on."""
MOST_EXACT_PAIRS = 12
"""Up to here all 2^n signs are tried; beyond, ``RESAMPLES`` random ones."""
RESAMPLES = 9999


@dataclass(frozen=True)
class Paired:
    """A difference over pairs; negative is better."""

    pairs: int
    mean: float
    low: float
    high: float
    """Bootstrap interval of the mean; NaN below 2 pairs."""
    improvement: float
    """Probability of improvement: the share of pairs that are better, ties counting half."""
    p_value: float
    """Two-sided; NaN where no p below ``LEVEL`` exists for so few pairs."""
    test: str
    """Name of the test; empty where none was made."""
    note: str
    """Why there is no p; empty where there is one."""


def paired(differences: Floats, *, confidence: float = 0.95) -> Paired:
    """Compare by the differences of pairs.

    differences: ``(n,)`` new minus base of the same seed, negative: better. Pairs with a NaN are left out.

    The interval is the percentile bootstrap over pairs; the test flips the signs of the differences (scipy.stats.bootstrap,
    scipy.stats.permutation_test, both with a fixed seed, so that the same records give the same numbers).
    """
    known = np.asarray(differences, dtype=np.float64)
    known = known[np.isfinite(known)]
    pairs = len(known)
    if pairs == 0:
        return Paired(0, math.nan, math.nan, math.nan, math.nan, math.nan, "", "no pairs")
    low, high = _interval(known, confidence)
    better = float((known < 0).mean() + (known == 0).mean() / 2)
    p_value, test = sign_flip_test(known)
    return Paired(pairs, float(known.mean()), low, high, better, p_value, test, too_few(pairs))


def smallest_p(pairs: int) -> float:
    """The least two-sided p that so many pairs can give: all signs alike."""
    return float(2.0 ** (1 - pairs))


def too_few(pairs: int) -> str:
    """Why so many pairs allow no test; empty if they do."""
    if pairs >= MIN_PAIRS:
        return ""
    return f"{pairs} pair{'s' * (pairs != 1)} cannot reach p < {smallest_p(pairs):g}" if pairs else "no pairs"


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number after Holm (1979): each at most 1 and no smaller than those before it in order.

    NaN stays NaN and does not count.
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(values), math.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return [float(value) for value in corrected]


def _interval(known: Floats, confidence: float) -> tuple[float, float]:
    if len(known) < 2:
        return math.nan, math.nan
    result = bootstrap(
        (known,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def sign_flip_test(known: Floats) -> tuple[float, str]:
    """Two-sided p of a mean of 0 and the name of the test; NaN and no name below ``MIN_PAIRS``.

    known: ``(n,)`` finite differences, exchangeable with their negatives where there is no difference.
    """
    if len(known) < MIN_PAIRS:
        return math.nan, ""
    exact = len(known) <= MOST_EXACT_PAIRS
    result = permutation_test(
        (known, np.zeros_like(known)),
        _mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if exact else RESAMPLES,
        rng=np.random.default_rng(0),
    )
    how = "exact" if exact else f"{RESAMPLES} random signs"
    return float(result.pvalue), f"sign-flip test of the mean ({how})"


def _mean_difference(first: Floats, second: Floats, axis: int) -> Floats:
    return np.asarray(first.mean(axis=axis) - second.mean(axis=axis))
