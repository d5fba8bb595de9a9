"""What a step costs relative to uniform weights: the one way in which methods' costs are compared.

Relative, since machines differ; to the uniform run of the same seed, trained together with it, since what runs beside comes
and goes; then the median over seeds. (The ratio of medians raised false alarms in 6 % of the checks instead of 1 %, after
one busy period.) There is no ratio where the runs were not trained together (``APART``), not on the same machine or not by
the same executor, or where one of them had to wait for a processor: such a pair says more of the machine than of the
method.

A uniform run may have been trained several times, later ones as the pair of a method that was trained later
(``Record.timings``): the ratio is to the nearest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.records.schema import DISTURBED, Record, Run, Timing

APART = timedelta(minutes=15)
"""The longest time between the end of one run and the beginning of the other for which they count as trained together.

Runs that overlap always do, however long they are. Where a plan has more methods than that allows, it times the uniform run
again on the way (``harness.pairs``)."""

ALIKE = {"gpu_id"}
"""Facts of a machine that may differ: two devices of one kind in one machine."""
HOW = {"executor", "process"}
"""Facts of a machine that say how a run was trained on it."""


@dataclass(frozen=True)
class Pairing:
    """A run beside the uniform run of its seed."""

    ratio: float
    """Seconds per step by those of the uniform run; NaN where they are no pair."""
    why: str = ""
    """Why they are none."""


def seconds_per_step(run: Run) -> float:
    """NaN where it is not known, or says more of the machine than of the method."""
    costs = run.record.costs
    return math.nan if costs is None or _disturbed(run.record) else costs.seconds_per_step


def pairings(runs: Iterable[Run], uniform: Iterable[Run]) -> dict[int, Pairing]:
    """Seed -> the pair of the seed. Both of finished runs."""
    base = {run.seed: run.record for run in uniform}
    return {run.seed: _pairing(run.record, base.get(run.seed)) for run in runs}


def ratios(runs: Iterable[Run], uniform: Iterable[Run]) -> dict[int, float]:
    """Seed -> seconds per step by those of the uniform run of the seed, where they are a pair. Both of finished runs."""
    found = pairings(runs, uniform)
    return {seed: pairing.ratio for seed, pairing in found.items() if math.isfinite(pairing.ratio)}


def middle(found: Mapping[int, float]) -> float:
    """The median over seeds; NaN where there is none."""
    return float(np.median(list(found.values()))) if found else math.nan


def without_pair(found: Mapping[str, Mapping[int, Pairing]]) -> list[str]:
    """What lacks a ratio, in words: for every reason the methods and seeds. found: label -> seed -> pair."""
    reasons: dict[str, dict[str, list[int]]] = {}
    for label, by_seed in found.items():
        for seed, pairing in sorted(by_seed.items()):
            if pairing.why:
                reasons.setdefault(pairing.why, {}).setdefault(label, []).append(seed)
    return [
        f"{why}: {'; '.join(f'{label}, seed ' + ', '.join(map(str, seeds)) for label, seeds in methods.items())}"
        for why, methods in sorted(reasons.items())
    ]


def timed_lately(record: Record, host: str, now: datetime) -> bool:
    """Whether a run that starts now on this machine would still be a pair of a recorded one."""
    last = last_timed(record, host)
    return last is not None and now - last <= APART


def last_timed(record: Record, host: str) -> datetime | None:
    """When the newest timing of a record on this machine ended; None where it has none."""
    ended = (datetime.fromisoformat(timing.ended) for timing in _timings(record) if timing.machine.get("host") == host)
    return max(ended, default=None)


def own_timing(record: Record) -> Timing | None:
    """The timing that a record's own costs are of; None where it is not known or not of one time.

    A run that was resumed counts by its last part, if that is the larger one.
    """
    costs = record.costs
    if costs is None or (started := _time(record.started)) is None:
        return None
    ended = _time(record.ended) or started + timedelta(seconds=costs.train_seconds)
    if record.resumed and (ended - started).total_seconds() < costs.train_seconds / 2:
        return None
    return Timing(
        started=started.isoformat(),
        ended=ended.isoformat(),
        seconds_per_step=costs.seconds_per_step,
        disturbed=_disturbed(record),
        machine=record.machine,
    )


def _pairing(record: Record, uniform: Record | None) -> Pairing:
    if uniform is None:
        return Pairing(math.nan, "no finished uniform run of the seed")
    own = own_timing(record)
    others = _timings(uniform)
    if own is None or not others:
        return Pairing(math.nan, "not known when they were trained")
    if record.key == uniform.key:
        return Pairing(math.nan, "had to wait for a processor") if own.disturbed else Pairing(1.0)
    nearest = min(others, key=lambda other: (bool(_why_not(own, other)), _gap(own, other), other.started))
    why = _why_not(own, nearest)
    return Pairing(math.nan, why) if why else Pairing(own.seconds_per_step / nearest.seconds_per_step)


def _why_not(own: Timing, other: Timing) -> str:
    """Why two timings are no pair; empty if they are."""
    differing = {fact for fact in own.machine.keys() & other.machine.keys() if own.machine[fact] != other.machine[fact]}
    if differing - ALIKE - HOW:
        return "trained on another machine than uniform"
    if differing & HOW:
        return "trained by another executor than uniform"
    if _gap(own, other) > APART:
        return f"trained more than {APART.total_seconds() / 60:g} minutes from uniform"
    if own.disturbed or other.disturbed or not other.seconds_per_step > 0:
        return "had to wait for a processor"
    return ""


def _gap(own: Timing, other: Timing) -> timedelta:
    """Between the end of the earlier and the beginning of the later; none where they overlap."""
    begins = max(datetime.fromisoformat(each.started) for each in (own, other))
    ends = min(datetime.fromisoformat(each.ended) for each in (own, other))
    return max(begins - ends, timedelta(0))


def _timings(record: Record) -> list[Timing]:
    own = own_timing(record)
    return [*([] if own is None else [own]), *record.timings]


def _disturbed(record: Record) -> bool:
    return any(flag.name == DISTURBED for flag in record.flags)


def _time(text: str | None) -> datetime | None:
    """A time of a record in UTC; None where there is none or it is none."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
