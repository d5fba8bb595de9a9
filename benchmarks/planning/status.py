"""How a plan stands: which of its runs have a record that counts, which are to do, and which are trained again as a pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.analysis.comparable import conditions, is_uniform
from benchmarks.analysis.relative_cost import timed_lately
from benchmarks.records import provenance
from benchmarks.records.schema import KEPT_STATES, Record, RunSpec, State
from benchmarks.records.storage import DamagedRecordError, read_run, run_folder


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
    stock = PlanStatus([], {}, {}, {}, {})
    records: dict[str, Record] = {}
    for spec in runs:
        place = run_folder(folder, spec.key)
        stock.to_do[spec.key] = spec
        if not place.exists():
            continue
        try:
            record = read_run(place).record
        except DamagedRecordError as error:
            stock.damaged[spec.key] = str(error)
            continue
        if record.state in KEPT_STATES:
            records[spec.key] = record
            del stock.to_do[spec.key]
        else:
            stock.replaced[spec.key] = record.started
    stock.pairs.update(_pairs(stock.to_do.values(), records))
    for spec in runs:
        if spec.key in records and spec.key not in stock.pairs:
            stock.recorded.append(Recorded(spec, records[spec.key].state, records[spec.key].reason or ""))
    to_do = {spec.key: spec for spec in runs if spec.key in stock.to_do or spec.key in stock.pairs}
    return replace(stock, to_do=to_do)


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
