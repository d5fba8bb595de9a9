"""The claims of a paper as checks on records, and its published numbers beside those measured here."""

from __future__ import annotations

from benchmarks.reproduce.base import Check, Experiment, Measured, Ours
from benchmarks.reproduce.papers import experiment, names
from benchmarks.reproduce.write import write_reproduction

__all__ = ["Check", "Experiment", "Measured", "Ours", "experiment", "names", "write_reproduction"]
