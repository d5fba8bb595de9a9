"""Many tasks in one chart, in pictures and on the page: more lines than can be told apart are shown by their spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.records.schema import Floats

MOST_LINES = 12
"""More tasks than this cannot be told apart."""


@dataclass(frozen=True)
class Spread:
    """How the values of many tasks lie at each point of a curve at which any task has one."""

    known: NDArray[np.bool_]
    """``(T,)``: where that is; the other fields have those points alone."""
    median: Floats
    half: tuple[Floats, Floats]
    """Lower and upper end of the middle half."""
    most: tuple[Floats, Floats]
    """The same of the middle nine tenths."""
    ends: tuple[NDArray[np.intp], NDArray[np.intp]]
    """The places of the tasks with the lowest and with the highest value: what a spread does not say."""


def spread(values: Floats) -> Spread:
    """values: ``(K, T)``; what is not finite counts as not there."""
    there = np.isfinite(values)
    known = np.asarray(there.any(axis=0))
    present = np.where(there, values, np.nan)[:, known]
    low, quarter, median, three, high = np.nanquantile(present, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
    ends = (np.nanargmin(present, axis=0), np.nanargmax(present, axis=0))
    return Spread(known, median, (quarter, three), (low, high), ends)


def alike(values: Floats) -> bool:
    """Whether all of several tasks have the same curve, as a number that belongs to no task has. values: ``(K, T)``."""
    return len(values) > 1 and bool(np.array_equal(values, np.broadcast_to(values[:1], values.shape), equal_nan=True))
