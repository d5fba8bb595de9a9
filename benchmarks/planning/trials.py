"""Which settings a method is tried in: learning rates crossed with its search space, the same number for every method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.seeds import derive

DIGITS = 3
"""Significant digits of a learning rate that is drawn."""
DRAWS = 100
"""For each trial, before the settings count as used up."""

Setting = tuple[float, dict[str, Any]]
"""A learning rate and values of hyperparameters."""


def trials(
    learning_rates: Sequence[float],
    usual: Mapping[str, object],
    space: Mapping[str, Sequence[object]],
    number: int,
    seed: int,
) -> list[Setting]:
    """``number`` different settings: first the usual values at each learning rate, so that the best is not worse than these.

    The rest fill the space evenly, a scrambled Halton sequence: learning rates between the lowest and the highest on a
    logarithmic scale, and the values of each hyperparameter. A method with nothing to search is tried at as many learning
    rates as others at settings.

    usual: hyperparameter -> its default, for those in ``space``; space: hyperparameter -> values, the published search
    space, empty for a method without hyperparameters. Raises ValueError if ``number`` is less than the learning rates or
    more than there are different settings.
    """
    rates = list(dict.fromkeys(learning_rates))
    if number < len(rates):
        raise ValueError(
            f"expected at least {len(rates)} trials, as the defaults are tried at each learning rate first, found {number}"
        )
    found: list[Setting] = [(rate, dict(usual)) for rate in rates]
    for setting in itertools.islice(_evenly(rates, space, seed), DRAWS * number):
        if len(found) == number:
            break
        if setting not in found:
            found.append(setting)
    if len(found) < number:
        raise ValueError(
            f"expected at most as many trials as there are different settings, {len(found)}, found {number}; every method "
            "gets as many"
        )
    return found


def _evenly(rates: Sequence[float], space: Mapping[str, Sequence[object]], seed: int) -> Iterator[Setting]:
    """Settings without end; of every length they cover the space evenly."""
    # On use: scipy.stats is a third of what a command imports before its first run, and only suites that tune need it.
    from scipy.stats import qmc

    points = qmc.Halton(1 + len(space), scramble=True, rng=np.random.default_rng(derive(seed, "trials")))
    low, high = math.log(min(rates)), math.log(max(rates))
    while True:
        rate, *places = points.random(1)[0].tolist()
        values = {
            name: options[int(place * len(options))] for (name, options), place in zip(space.items(), places, strict=True)
        }
        yield float(f"{math.exp(low + rate * (high - low)):.{DIGITS}g}"), values
