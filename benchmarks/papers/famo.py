"""FAMO's landscape: equal weights miss the Pareto front from one of five starts, FAMO from none.

Source    Liu et al., FAMO, NeurIPS 2023, Figure 1 and section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.analysis import statistics
from benchmarks.analysis.scores import Scores
from benchmarks.papers.claims import Check, Experiment, Measured, Ours, Says, label_of
from benchmarks.problems.famo_toy import STARTS
from benchmarks.records.schema import Run

EXPECTED = {"uniform": 1, "famo": 0}
"""Starts that miss the front, as the paper has it."""
CLAIMS = {
    "uniform": "Equal weights miss the Pareto front from one of the five starts.",
    "famo": "FAMO reaches the Pareto front from all five starts.",
}


def measure(found: Mapping[str, Scores]) -> Measured:
    """The starts that each method misses, and whether these are as many as in the paper."""
    section = found["famo_toy"].section
    runs = {weighter: section.finished(label_of(section, weighter)) for weighter in EXPECTED}
    tolerance = float(section.problem.options["tolerance"])
    ours = []
    for weighter, own in runs.items():
        counts = np.array([len(_missed(run, tolerance)) for run in own], dtype=np.float64)
        mean, error = statistics.mean_and_error(counts)
        ours.append(Ours(weighter, "starts_missed", mean, error, len(own)))
    return Measured(tuple(ours), tuple(_check(weighter, own, tolerance) for weighter, own in runs.items()))


def _check(weighter: str, runs: Sequence[Run], tolerance: float) -> Check:
    expected = EXPECTED[weighter]
    criterion = (
        f"A start is missed if its front gap after the last step is above {tolerance:g}, that is if a point of the front is "
        f"better in both losses by more than {100 * tolerance:g} % of their ranges on the front. Holds if every run misses "
        f"{expected} of {len(STARTS)}."
    )
    verdict: Says = "cannot be judged"
    if runs:
        verdict = "holds" if all(len(_missed(run, tolerance)) == expected for run in runs) else "does not hold"
    numbers = "; ".join(dict.fromkeys(_numbers(run, tolerance) for run in runs)) or "no finished run"
    return Check(CLAIMS[weighter], criterion, numbers, verdict)


def _gaps(run: Run) -> list[float]:
    test = run.record.metrics["test"]
    return [test[f"front_gap[start {number}]"] for number in range(1, len(STARTS) + 1)]


def _missed(run: Run, tolerance: float) -> list[int]:
    """Places in ``STARTS``. A gap that is no number is a miss."""
    return [place for place, gap in enumerate(_gaps(run)) if not gap <= tolerance]


def _numbers(run: Run, tolerance: float) -> str:
    gaps, missed = _gaps(run), _missed(run, tolerance)
    which = ", ".join(f"({STARTS[place][0]:g}, {STARTS[place][1]:g}) with a gap of {gaps[place]:.3g}" for place in missed)
    others = [gap for place, gap in enumerate(gaps) if place not in missed]
    rest = f"largest gap of the {len(others)} others {max(others):.2g}" if others else "no start reaches it"
    return f"missed {len(missed)} of {len(gaps)}{f': {which}' if which else ''}; {rest}"


EXPERIMENT = Experiment(
    problem="famo_toy",
    protocol="famo_toy",
    weighters=tuple(EXPECTED),
    measure=measure,
    departures=(
        "FAMO is given the true minima of both objectives, less 1e-5, where the authors' code has -2.1 and -21.",
        "The five starts are five replicas of one run; nothing is random, so one seed is all.",
        "How near the front counts as reaching it is this project's choice.",
    ),
)
