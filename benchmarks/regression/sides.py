"""One side of a comparison: the records of a suite folder, by setting, method and seed. Bad input is one line."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis.loading import load
from benchmarks.errors import UserError
from benchmarks.record import Fingerprints, Run, RunSpec

Seeds = Mapping[int, Run]
Methods = Mapping[str, Seeds]
"""Label -> seed -> run in any state."""


@dataclass(frozen=True)
class Side:
    """What a folder holds."""

    folder: Path
    runs: tuple[Run, ...]
    settings: Mapping[str, Methods]
    """Setting (see ``setting``) -> runs of methods; the single-task runs are in ``runs`` alone."""


def setting(spec: RunSpec) -> str:
    """What must be equal for runs to be compared, as text: problem, options, tasks, training settings, kind of device."""
    content = {
        "problem": spec.problem.name,
        "source": spec.problem.source,
        "options": spec.problem.options,
        "tasks": list(spec.problem.tasks),
        "training": spec.training.model_dump(mode="json"),
        "device": spec.device,
    }
    return json.dumps(content, sort_keys=True)


def difference(one: str, other: str, place: str) -> str:
    """In what two settings of a problem differ, e.g. ``training.steps 300, here 600`` with ``place="here"``."""
    first, second = _flat(json.loads(one)), _flat(json.loads(other))
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return "; ".join(f"{name} {json.dumps(first.get(name))}, {place} {json.dumps(second.get(name))}" for name in names)


def read(folder: Path, keys: Collection[str] | None = None) -> Side:
    """The records of a suite folder, or those with the given keys.

    Raises UserError where there are none, where one cannot be read, or where two claim the same method and seed: a verdict
    on what is left would be on something else than it says.
    """
    try:
        loaded = load(folder, keys)
    except OSError as error:
        raise UserError(f"{folder}: expected a folder of records that can be read: {error.strerror}") from error
    if loaded.unusable:
        more = len(loaded.unusable) - 1
        raise UserError(loaded.unusable[0].reason + (f" (and {more} more that cannot be used)" if more else ""))
    if not loaded.runs:
        raise UserError(f"expected records in {folder / 'runs'}, found none")
    settings: dict[str, dict[str, dict[int, Run]]] = {}
    for run in loaded.runs:
        if run.record.run.role != "method":
            continue
        seeds = settings.setdefault(setting(run.record.run), {}).setdefault(run.label, {})
        if run.seed in seeds:
            raise UserError(
                f"{folder}: expected one record of {run.label} on {run.problem}, seed {run.seed}, found several: "
                f"{seeds[run.seed].record.key} and {run.record.key}"
            )
        seeds[run.seed] = run
    return Side(folder, loaded.runs, settings)


def check_fingerprints(base: Side, head: Side) -> None:
    """Raise UserError unless runs of the same setting and seed began alike: parameters, data and order of the batches."""
    for methods in head.settings.values():
        for run in (run for seeds in methods.values() for run in seeds.values()):
            if run.record.fingerprints is not None:
                check_beginning(base, run.record.run, run.record.fingerprints)


def check_beginning(base: Side, spec: RunSpec, found: Fingerprints) -> None:
    """Raise UserError where a run of the same setting and seed began otherwise."""
    for seeds in base.settings.get(setting(spec), {}).values():
        run = seeds.get(spec.seed)
        there = None if run is None else run.record.fingerprints
        if run is None or there is None or there == found:
            continue
        differing = [name.replace("_", " ") for name, value in there if value != getattr(found, name)]
        raise UserError(
            f"{base.folder}: {spec.problem.name}, seed {spec.seed}: expected runs that began alike, found other "
            f"{' and '.join(differing)} than those of {run.label} ({run.record.key})"
        )


def changed_settings(base: Methods, head: Methods, label: str) -> str:
    """The hyperparameters of a method that are not as they were, e.g. ``lr 0.025, now 0.25``; empty if all are."""
    one, other = (next(iter(side[label].values())).record.run.weighter for side in (base, head))
    names = dict.fromkeys([*one.hyperparameters, *other.hyperparameters])
    old, new = ({name: side.hyperparameters.get(name, "none") for name in names} for side in (one, other))
    return "; ".join(f"{name} {old[name]}, now {new[name]}" for name in names if old[name] != new[name])


def problem_of(methods: Methods) -> str:
    """The problem of some runs of one setting."""
    return next(iter(next(iter(methods.values())).values())).problem


def finished(seeds: Seeds) -> dict[int, Run]:
    """Seed -> run, those that finished, in the order of the seeds."""
    return {seed: run for seed, run in sorted(seeds.items()) if run.record.state == "finished"}


def _flat(content: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            found[name] = value
    return found
