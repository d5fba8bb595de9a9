"""What a process of its own answers, in a module that brings nothing heavy along: it is imported there."""

from __future__ import annotations

from typing import Any

from weighting import METHODS, Observation, Weighter
from weighting.replaying import go_on
from weighting.testing.answers import weights_by_setting


def weights_of_all(_kind: type) -> dict[str, dict[str, list[list[float]]]]:
    """Method -> label -> weights of a short run."""
    return {name: weights_by_setting(kind) for name, kind in METHODS.items()}


def weights_elsewhere(started: list[tuple[Weighter, list[Observation]]], answer: Any) -> None:
    """Puts the weights of methods that go on with what is to come."""
    answer.put([go_on(weighter, steps).tolist() for weighter, steps in started])
