"""How a plan stands: which of its runs have a record that counts, which are to do, and which are trained again as a pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.analysis.comparable import conditions, is_uniform
from benchmarks.analysis.relative_cost import timed_lately
from benchmarks.records import provenance
from benchmarks.records.reading import Unusable, read_all
from benchmarks.records.schema import KEPT_STATES, Record, RunSpec, State


@dataclass(frozen=True)
class Recorded:
    """How a run stands."""

    spec: RunSpec
    state: State
    reason: str = ""


@dataclass(frozen=True)
class PlanStatus:
    """How a plan stands before anything is trained."""

    recorded: list[Recorded]
    to_do: dict[str, RunSpec]
    """By key."""
    replaced: dict[str, str]
    """Key -> when the failed run that is to be trained again was started."""
    damaged: dict[str, str]
    """Key -> what is wrong with a record that cannot be used."""
    pairs: dict[str, str]
    """Key of a recorded uniform run that is to be trained again, for its time alone -> the methods whose pair it is."""


def plan_status(folder: Path, runs: list[RunSpec]) -> PlanStatus:
    """Which of the planned runs have a record that counts and which are to do. Changes nothing."""
    keyed = [(spec.key, spec) for spec in runs]
    records: dict[str, Record] = {}
    replaced: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for found in read_all(folder, dict(keyed)):
        if isinstance(found, Unusable):
            damaged[found.key] = found.reason
        elif found.record.state in KEPT_STATES:
            records[found.record.key] = found.record
        else:
            replaced[found.record.key] = found.record.started
    pairs = _pairs((spec for key, spec in keyed if key not in records), records)
    return PlanStatus(
        recorded=[
            Recorded(spec, records[key].state, records[key].reason or "")
            for key, spec in keyed
            if key in records and key not in pairs
        ],
        to_do={key: spec for key, spec in keyed if key not in records or key in pairs},
        replaced=replaced,
        damaged={key: damaged[key] for key, _ in keyed if key in damaged},
        pairs=pairs,
    )


def _pairs(to_do: Iterable[RunSpec], records: Mapping[str, Record]) -> dict[str, str]:
    """Key of each recorded uniform run that was trained too long ago to be the pair of a run to do -> those methods.

    Costs are compared with a uniform run that was trained together with the method, see ``analysis.relative_cost``. Where
    nothing of its seed is to do, nothing is trained again.
    """
    waiting: dict[tuple[str, int], list[str]] = {}
    for spec in to_do:
        if spec.role == "method":
            waiting.setdefault((conditions(spec), spec.seed), []).append(spec.weighter.label)
    now, host = datetime.now(UTC), provenance.host()
    found = {}
    for key, record in records.items():
        spec = record.run
        if spec.role != "method" or not is_uniform(spec.weighter) or record.state != "finished":
            continue
        methods = waiting.get((conditions(spec), spec.seed), [])
        if methods and not timed_lately(record, host, now):
            found[key] = ", ".join(methods)
    return found
