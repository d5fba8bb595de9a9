"""Which settings a method is tried in: its search space crossed with learning rates, the same number for every method."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.seeds import derive


def trials(
    learning_rates: Sequence[float], space: Mapping[str, Sequence[object]], number: int, seed: int
) -> list[tuple[float, dict[str, Any]]]:
    """``number`` different pairs of a learning rate and hyperparameters, every learning rate as often as any other.

    space: hyperparameter -> values, the method's published search space; empty for a method without hyperparameters.
    The order of the settings is drawn by the seed. Raises ValueError if there are fewer pairs.
    """
    settings = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    rates = list(dict.fromkeys(learning_rates))
    if number > len(rates) * len(settings):
        raise ValueError(
            f"expected at most as many trials as there are settings, {len(rates)} learning rates x {len(settings)} = "
            f"{len(rates) * len(settings)}, found {number}; every method gets as many"
        )
    random.Random(derive(seed, "trials")).shuffle(settings)
    # Each round goes through the learning rates, one setting further for each, so that few trials see many of both.
    rounds = [divmod(trial, len(rates)) for trial in range(number)]
    return [(rates[place], settings[(turn + place) % len(settings)]) for turn, place in rounds]
