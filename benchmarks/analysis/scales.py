"""Which values a chart of curves shows: the same for the pictures and for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.sections import STL
from benchmarks.records.schema import Floats

DECADE = 10.0
"""Positive values that span more than this factor are shown on a logarithmic axis."""


@dataclass(frozen=True)
class Scale:
    """The ends of an axis, with a margin."""

    low: float
    high: float
    logarithmic: bool


def scale(curves: Iterable[Floats], *, shares: bool = False) -> Scale | None:
    """The axis for these curves; None where they have no finite value. shares: linear where all lie between 0 and 1."""
    stacked = np.concatenate([np.ravel(values) for values in curves] or [np.zeros(1)])
    known = stacked[np.isfinite(stacked)]
    if known.size == 0:
        return None
    low, high = float(known.min()), float(known.max())
    if low > 0 and high / low > DECADE and not (shares and high <= 1):
        margin = (high / low) ** 0.05
        return Scale(low / margin, high * margin, True)
    margin = 0.05 * (high - low) or 0.1 * abs(high) or 0.1
    return Scale(low - margin, high + margin, False)


def off_scale(curves: Mapping[str, Floats], judged: Callable[[Floats], Floats] = lambda values: values) -> list[str]:
    """The curves that would flatten all others: those whose ``judged`` part rises far above the usual range."""
    known = {name: values for name, values in curves.items() if np.isfinite(values).any()}
    if len(known) < 3:
        return []
    usual = float(np.median([np.nanmax(values) for values in known.values()]))
    low = float(np.median([np.nanmin(values) for values in known.values()]))
    limit = usual + 3 * max(usual - low, 1e-12)
    return [name for name, values in known.items() if (judged(values) > limit).any()]


def of_losses(curves: Mapping[str, Floats]) -> tuple[Scale | None, list[str]]:
    """The axis for validation losses, and the names of the curves that leave it.

    curves: method, or ``STL``, -> ``(T,)`` over the steps. The first tenth, in which all fall alike, decides nothing.
    """
    settled = {name: _settled(values) for name, values in curves.items()}
    methods = {name: values for name, values in settled.items() if name != STL}
    # Judged by the second half: a slow start belongs into the panel, a curve that ends far away does not.
    off = off_scale(methods, lambda values: values[len(values) // 2 :])
    found = scale(values for name, values in settled.items() if name not in off and (name != STL or not methods))
    if found is not None and methods and STL in settled and settled[STL][-1] > found.high:
        off.append(STL)
    return found, off


def _settled(values: Floats) -> Floats:
    return values[max(1, len(values) // 10) :] if len(values) > 5 else values
