"""Answers about all listed problems at once, for a process of its own."""

from __future__ import annotations

from benchmarks.catalog import problem_class
from benchmarks.problems import LISTED
from benchmarks.testing.data import bytes_of


def bytes_of_all(_kind: type) -> dict[str, dict[str, str]]:
    """Problem -> what -> hash."""
    return {name: bytes_of(problem_class(name)) for name in LISTED}
