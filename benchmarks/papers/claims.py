"""What a paper's claims are made of, and the comparison that most of them come down to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.analysis import statistics
from benchmarks.analysis.paired import LEVEL
from benchmarks.analysis.scores import Scores
from benchmarks.analysis.sections import Section
from benchmarks.analysis.verdict import Judged, Verdict, judge
from benchmarks.records.schema import Floats, Role

Says = Literal["holds", "does not hold", "cannot be judged"]
SAYS: dict[Verdict, Says] = {
    "better": "holds",
    "worse": "does not hold",
    "no difference seen": "cannot be judged",
    "too few to test": "cannot be judged",
    "identical": "cannot be judged",
    "no pairs": "cannot be judged",
}
"""What the verdict on a comparison says of the claim that the first is better."""


@dataclass(frozen=True)
class Ours:
    """A number measured here."""

    method: str
    metric: str
    mean: float
    error: float
    """Standard error over seeds; NaN below two."""
    n: int


@dataclass(frozen=True)
class Check:
    """A claim, how it is judged, what was found."""

    claim: str
    criterion: str
    numbers: str
    verdict: Says


@dataclass(frozen=True)
class Measured:
    """What the runs of an experiment come to."""

    ours: tuple[Ours, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the claims has to know of the runs."""


@dataclass(frozen=True)
class Experiment:
    """What of a paper can be run here."""

    problem: str
    """The problem of the paper's suite, ``reproduce_<paper>``; its runs may be several sections, which differ in options."""
    protocol: str
    """The published protocol that the runs stand beside."""
    weighters: tuple[str, ...]
    """Those of the suite that the claims need."""
    measure: Callable[[Mapping[str, Scores]], Measured]
    """From the sections of the problem, by name."""
    departures: tuple[str, ...]
    """In what the runs differ from the paper's."""


def label_of(section: Section, weighter: str) -> str:
    """What the section calls the method; the weighter's name if it has no run of it."""
    names = {label: run.record.run.weighter.name for (label, _), run in section.runs.items()}
    return next((label for label in section.methods if names.get(label) == weighter), weighter)


def means(scored: Scores, methods: Sequence[str], columns: Sequence[str], role: Role = "method") -> tuple[Ours, ...]:
    """Mean, standard error and number of runs with the number, for each method and column of the scores.

    methods: labels, or names of weighters.
    """
    found = []
    for method in methods:
        own = scored.of(role, label_of(scored.section, method))
        for column in columns:
            known = own[column].dropna().to_numpy(np.float64)
            found.append(Ours(method, column, *statistics.mean_and_error(known), len(known)))
    return tuple(found)


def best_of(scored: Scores, column: str, methods: Sequence[str], role: Role = "method") -> str:
    """The method with the lowest mean of a column, among those with the most runs."""
    found = means(scored, methods, [column], role)
    return min(found, key=lambda each: (-each.n, each.mean if each.n else math.inf)).method


def below(
    scored: Scores, column: str, weighter: str, rivals: Sequence[str], claim: str, role: Role = "method"
) -> tuple[Check, ...]:
    """One check for each rival: the weighter's ``column`` is below the rival's, paired by seed, Holm over the rivals.

    column: of the scores; claim: a sentence with ``{rival}`` in it.
    """
    values = [_pairs(scored, column, weighter, rival, role) for rival in rivals]
    judged = judge([pairs[:, 0] - pairs[:, 1] for pairs in values])
    criterion = (
        f"{column} of {weighter} minus that of the rival, same seeds: holds if below 0 with p < {LEVEL:g}, does not hold if "
        "above 0 with such a p, and cannot be judged otherwise."
    )
    return tuple(
        Check(claim.format(rival=rival), criterion, _numbers(pairs, each), SAYS[each.verdict])
        for rival, pairs, each in zip(rivals, values, judged, strict=True)
    )


def _pairs(scored: Scores, column: str, weighter: str, rival: str, role: Role) -> Floats:
    """``(n, 2)``: the weighter's and the rival's value on every seed on which both are known."""
    runs = (scored.of(role, label_of(scored.section, name)) for name in (weighter, rival))
    own, other = (dict(zip(rows["seed"], rows[column], strict=True)) for rows in runs)
    pairs = [(own.get(seed, math.nan), other.get(seed, math.nan)) for seed in scored.section.seeds]
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return values[np.isfinite(values).all(axis=1)]


def _numbers(pairs: Floats, judged: Judged) -> str:
    result = judged.found
    if result.pairs == 0:
        return "no seed with finished runs of both"
    own, other = pairs.mean(axis=0)
    parts = [f"{own:.4g} against {other:.4g}", f"mean difference {result.mean:+.4g}"]
    if math.isfinite(result.low):
        parts[1] += f" (95% interval {result.low:+.4g} to {result.high:+.4g})"
    parts.append(f"probability of improvement {result.improvement:.2f} over {result.pairs} seeds")
    if math.isfinite(judged.p_value):
        over = f", Holm over {judged.comparisons}" if judged.comparisons > 1 else ""
        parts.append(f"{judged.words}: p = {judged.p_value:.3g} ({judged.test}{over})")
    else:
        parts.append(f"{judged.words}: {judged.test}")
    return "; ".join(parts)
