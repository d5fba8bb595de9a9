"""Answers about all listed methods at once, for a process of its own."""

from __future__ import annotations

from weighting import METHODS
from weighting.testing.answers import weights_by_setting


def weights_of_all(_kind: type) -> dict[str, dict[str, list[list[float]]]]:
    """Method -> label -> weights of a short run."""
    return {name: weights_by_setting(kind) for name, kind in METHODS.items()}
