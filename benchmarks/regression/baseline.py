"""The records of a suite folder, by conditions, method and seed, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis.comparable import conditions, difference, differing
from benchmarks.analysis.loading import load
from benchmarks.analysis.sections import Section, sections
from benchmarks.errors import UserError
from benchmarks.records.schema import Fingerprints, Run, RunSpec

Seeds = Mapping[int, Run]
Methods = Mapping[str, Seeds]
"""Label -> seed -> run in any state."""


@dataclass(frozen=True)
class RecordSet:
    """What a folder holds."""

    folder: Path
    runs: tuple[Run, ...]
    """All that can be read, also those that are left out."""
    sections: Mapping[str, Section]
    """Conditions -> runs that may be compared."""
    by_conditions: Mapping[str, Methods]
    """Conditions -> runs of methods; the single-task runs are in ``sections`` alone."""
    lost: Mapping[str, str]
    """Key of a run that has a record here but is not compared -> why."""
    notes: tuple[str, ...]
    """What is left out and what is shown apart, in words."""


def read(folder: Path, keys: Collection[str] | None = None) -> RecordSet:
    """The records of a suite folder, or those with the given keys. Raises UserError where none can be read."""
    try:
        loaded = load(folder, keys)
    except OSError as error:
        raise UserError(f"{folder}: expected a folder of records that can be read: {error.strerror}") from error
    if not loaded.runs:
        reasons = [each.reason for each in loaded.unusable]
        more = f" (and {len(reasons) - 1} more that cannot be used)" if len(reasons) > 1 else ""
        raise UserError(f"{reasons[0]}{more}" if reasons else f"expected records in {folder}, found none")
    found, warnings = sections(loaded.runs)
    kept = {section.key: section for section in found}
    lost = {each.key: each.reason for each in loaded.unusable}
    lost |= {run.record.key: why for section in found for run, why in section.excluded}
    return RecordSet(
        folder=folder,
        runs=loaded.runs,
        sections=kept,
        by_conditions={key: _methods(section) for key, section in kept.items() if section.runs},
        lost=lost,
        notes=(*(each.reason for each in loaded.unusable), *warnings),
    )


def began_otherwise(base: RecordSet, spec: RunSpec, found: Fingerprints) -> str:
    """In what a run began otherwise than those of the same conditions and seed there; empty where it did not."""
    for run in _of_seed(base, spec):
        what = differing(found, run.record.fingerprints)
        if what:
            return f"{' and '.join(what)} differ from those of {run.label} in {base.folder} ({run.record.key})"
    return ""


def without_those_that_began_otherwise(base: RecordSet, head: RecordSet) -> RecordSet:
    """The head without the runs that began otherwise than the base's of the same conditions and seed, which it names."""
    lost: dict[str, str] = {}
    notes: list[str] = []
    settings: dict[str, dict[str, dict[int, Run]]] = {}
    for key, methods in head.by_conditions.items():
        kept = settings.setdefault(key, {})
        for label, seeds in methods.items():
            for seed, run in seeds.items():
                prints = run.record.fingerprints
                why = "" if prints is None else began_otherwise(base, run.record.run, prints)
                if why:
                    lost[run.record.key] = why
                    notes.append(f"{run.problem}: run {run.record.key} ({label}, seed {seed}) is left out: {why}")
                else:
                    kept.setdefault(label, {})[seed] = run
    return RecordSet(head.folder, head.runs, head.sections, settings, {**head.lost, **lost}, (*head.notes, *notes))


def why_lost(records: RecordSet, spec: RunSpec) -> str:
    """Why a planned run is not compared, though it or its like has a record there; empty where that is not so."""
    if spec.key in records.lost:
        return records.lost[spec.key]
    like = (conditions(spec), spec.weighter.label, spec.seed)
    for run in records.runs:
        if run.record.key in records.lost and (conditions(run.record.run), run.label, run.seed) == like:
            return records.lost[run.record.key]
    return ""


def why_not_shared(base: RecordSet, head: RecordSet) -> str:
    """In what the folders differ where no conditions are in both."""
    if not base.by_conditions or not head.by_conditions:
        return "found single-task runs alone"
    return f"found {in_what(next(iter(base.by_conditions)), base, head, 'there')}"


def in_what(key: str, own: RecordSet, other: RecordSet, place: str) -> str:
    """In what conditions differ from the ones of the same problem in the other folder."""
    spec = own.sections[key].spec
    specs = [other.sections[each].spec for each in other.by_conditions]
    near = next((each for each in specs if each.problem.name == spec.problem.name), None)
    return f"no {spec.problem.name} {place}" if near is None else difference(spec, near, place)


def changed_hyperparameters(base: Seeds, head: Seeds) -> str:
    """The hyperparameters of a method that are not as they were, e.g. ``lr 0.025, now 0.25``; empty if all are."""
    one, other = (any_of(seeds).record.run.weighter for seeds in (base, head))
    names = dict.fromkeys([*one.hyperparameters, *other.hyperparameters])
    old, new = ({name: each.hyperparameters.get(name, "none") for name in names} for each in (one, other))
    return "; ".join(f"{name} {old[name]}, now {new[name]}" for name in names if old[name] != new[name])


def partner(methods: Methods, like: RunSpec, label: str) -> str | None:
    """What a method is called in the other folder: the same, or as the one of several of its name that is equal in all."""
    if label in methods:
        return label
    for other, seeds in methods.items():
        spec = any_of(seeds).record.run
        if spec.weighter.label == like.weighter.label and spec.method == like.method:
            return other
    return None


def any_of(seeds: Seeds) -> Run:
    """One of a method's runs."""
    return next(iter(seeds.values()))


def finished(seeds: Seeds) -> dict[int, Run]:
    """Seed -> run, those that finished, in the order of the seeds."""
    return {seed: run for seed, run in sorted(seeds.items()) if run.record.state == "finished"}


def _methods(section: Section) -> dict[str, dict[int, Run]]:
    found: dict[str, dict[int, Run]] = {label: {} for label in section.methods}
    for (label, seed), run in sorted(section.runs.items()):
        found[label][seed] = run
    return {label: seeds for label, seeds in found.items() if seeds}


def _of_seed(records: RecordSet, spec: RunSpec) -> Iterator[Run]:
    for seeds in records.by_conditions.get(conditions(spec), {}).values():
        if spec.seed in seeds:
            yield seeds[spec.seed]
