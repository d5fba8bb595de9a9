"""A protocol as rows: published | re-run by others | ours | difference | verdict."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.analysis import delta_m
from benchmarks.analysis.sections import STL
from benchmarks.papers.claims import Ours
from benchmarks.papers.published import Published, PublishedMetric, PublishedNumber, protocols, published
from benchmarks.report.formatting import MISSING

BASELINE = "single_task"
DELTA = "delta_m"


@dataclass(frozen=True)
class PublishedRow:
    """A line of the table, as text."""

    method: str
    metric: str
    published: str
    rerun: str
    ours: str
    difference: str
    verdict: str
    headline: bool


@dataclass(frozen=True)
class ProtocolComparison:
    """A protocol with what stands beside it."""

    shown: Published
    """The protocol whose numbers are the published ones."""
    reruns: tuple[Published, ...]
    """Protocols that are others' runs of it."""
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class _Value:
    value: float
    error: float | None
    places: int
    """Digits after the point."""
    n: int | None = None
    """Runs, of a number of ours."""

    @property
    def text(self) -> str:
        number = MISSING if math.isnan(self.value) else f"{self.value:.{self.places}f}"
        error = "" if self.error is None else f" ± {self.error:.{self.places}f}"
        return number + error + ("" if self.n is None else f" (n = {self.n})")


def compare(paper: Sequence[str], ours: Mapping[str, Sequence[Ours]]) -> list[ProtocolComparison]:
    """The protocols of a paper, those of our runs first; others' runs of a protocol stand beside it.

    paper: ids of its protocols; ours: protocol -> our numbers. Where it has only others' runs of a protocol, the rows are
    those of their methods.
    """
    own = sorted(paper, key=lambda protocol: protocol not in ours)
    found = []
    for protocol in own:
        shown = published(protocol)
        measured = ours.get(protocol, ())
        if shown.reruns is None:
            reruns = [published(other) for other in protocols() if published(other).reruns == protocol]
            found.append(_comparison(shown, reruns, measured, None))
        elif shown.reruns not in paper:
            methods = {number.method for number in shown.numbers}
            found.append(_comparison(published(shown.reruns), [shown], measured, methods))
    return found


def _comparison(
    shown: Published, reruns: Sequence[Published], ours: Sequence[Ours], methods: set[str] | None
) -> ProtocolComparison:
    by_paper = [number for number in shown.numbers if number.measured_by == "paper"]
    by_others = [number for number in shown.numbers if number.measured_by == "others"]
    for other in reruns:
        by_others += [*other.numbers, *_computed(other, shown)]
    names = {name: text for other in (*reruns, shown) for name, text in other.names.items()}
    order = dict.fromkeys([number.method for number in [*by_paper, *by_others]] + [each.method for each in ours])
    rows: list[PublishedRow] = []
    for method in order:
        if methods is not None and method not in methods:
            continue
        for metric in shown.metrics:
            left = [number for number in by_paper if (number.method, number.metric.key) == (method, metric.key)]
            middle = [number for number in by_others if (number.method, number.metric.key) == (method, metric.key)]
            right = [each for each in ours if (each.method, each.metric) == (method, metric.key)]
            name = names.get(method, STL if method == BASELINE else method)
            rows += _rows(name, metric, left, middle, right)
    return ProtocolComparison(shown, tuple(reruns), tuple(rows))


def _rows(
    method: str,
    metric: PublishedMetric,
    left: Sequence[PublishedNumber],
    middle: Sequence[PublishedNumber],
    right: Sequence[Ours],
) -> list[PublishedRow]:
    """One row for every pairing; sources that print the same number differently stay apart."""
    if not (left or middle or right):
        return []
    firsts: list[_Value | None] = [_printed(number) for number in left]
    seconds: list[_Value | None] = [_printed(number) for number in middle]
    thirds: list[_Value | None] = [_measured(each, metric) for each in right]
    pairings = itertools.product(firsts or [None], seconds or [None], thirds or [None])
    return [_row(method, metric, first, second, third) for first, second, third in pairings]


def _row(
    method: str, metric: PublishedMetric, first: _Value | None, second: _Value | None, third: _Value | None
) -> PublishedRow:
    latest = third or second
    difference, verdict = MISSING, "nothing published" if first is None else "not run here"
    if first is not None and latest is not None:
        gap = latest.value - first.value
        difference = MISSING if math.isnan(gap) else f"{gap:+.{max(first.places, latest.places)}f}"
        verdict = _verdict(metric, first, latest)
    return PublishedRow(
        method=method,
        metric=metric.label,
        published=_text(first),
        rerun=_text(second),
        ours=_text(third),
        difference=difference,
        verdict=verdict,
        headline=metric.headline,
    )


def _text(value: _Value | None) -> str:
    return MISSING if value is None else value.text


def _verdict(metric: PublishedMetric, first: _Value, latest: _Value) -> str:
    """Whether two numbers agree: exactly for counts without noise, else within two standard errors of the difference."""
    if math.isnan(latest.value):
        return "no finished run"
    gap = abs(latest.value - first.value)
    if metric.exact:
        return "agrees" if gap == 0 else "differs"
    if first.error is None or latest.error is None:
        return "cannot be judged: an error is missing"
    return "agrees within 2 s.e." if gap <= 2 * math.hypot(first.error, latest.error) else "differs by more than 2 s.e."


def _printed(number: PublishedNumber) -> _Value:
    digits = len(repr(number.value).partition(".")[2].rstrip("0"))
    return _Value(number.value, number.error, max(number.metric.decimals, digits))


def _measured(each: Ours, metric: PublishedMetric) -> _Value:
    return _Value(each.mean, None if math.isnan(each.error) else each.error, metric.decimals, each.n)


def _computed(rerun: Published, parent: Published) -> list[PublishedNumber]:
    """Δm of the methods that a re-run prints all metrics of but no Δm, from the parent's single-task row."""
    metrics = [metric for metric in parent.metrics if metric.key in rerun.delta_m_over]
    delta = next((metric for metric in rerun.metrics if metric.key == DELTA), None)
    base = {number.metric.key: number.value for number in parent.numbers if number.method == BASELINE}
    if delta is None or not metrics or any(metric.key not in base for metric in metrics):
        return []
    found = []
    for method in dict.fromkeys(number.method for number in rerun.numbers):
        own = {number.metric.key: number for number in rerun.numbers if number.method == method}
        if DELTA in own or any(metric.key not in own for metric in metrics):
            continue
        changes = delta_m.changes_percent(
            np.array([own[metric.key].value for metric in metrics]),
            np.array([base[metric.key] for metric in metrics]),
            [metric.better == "higher" for metric in metrics],
        )
        value = round(float(delta_m.over_metrics(changes)), delta.decimals)
        found.append(replace(own[metrics[0].key], metric=delta, value=value, error=None))
    return found
