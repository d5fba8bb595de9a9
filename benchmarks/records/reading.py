"""The recorded runs of a suite's folder, each in a folder of its own or packed; a folder wins over what is packed of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.records.packed import PACKED_FILES, Packed
from benchmarks.records.schema import Run
from benchmarks.records.storage import DamagedRecordError, read_run, run_folder, run_folders

LEVELS = ("", "*", "*/*")
"""Where the folders of suites are looked for below a path: there, or else one level further down, or else two."""


@dataclass(frozen=True)
class Unusable:
    """A record that cannot be used."""

    key: str
    """Empty where not even that can be told."""
    reason: str
    """In one line, with the place."""


def read_one(suite_folder: Path, key: str) -> Run:
    """The recorded run with this key. Raises DamagedRecordError where there is none that can be read."""
    place = run_folder(suite_folder, key)
    packed = Packed(suite_folder)
    # What is neither is read as a folder, whose error says that it is not there.
    return packed.run(key) if not place.exists() and key in packed.lines else _from_folder(place)


def read_all(suite_folder: Path, keys: Collection[str] | None = None) -> Iterator[Run | Unusable]:
    """All recorded runs of a suite's folder, or those with the given keys, in the order of their keys.

    A folder that does not exist holds none. Raises OSError where the folder of runs cannot be listed.
    """
    packed = Packed(suite_folder)
    places = _places(packed, keys or ())
    found = {*places, *packed.lines}
    if keys is None or not {*keys} <= found:
        lost = packed.known - found
        found |= lost
        yield from (Unusable("", reason) for reason in packed.unreadable[len(lost) :])
    for key in sorted(found):
        if keys is not None and key not in keys:
            continue
        try:
            yield _from_folder(places[key]) if key in places else _from_packed(packed, key)
        except DamagedRecordError as error:
            yield Unusable(key, str(error))


def _places(packed: Packed, keys: Collection[str]) -> dict[str, Path]:
    """Key -> folder, of all runs that have one; or a file that lies where the folder of one of the given runs should be."""
    # Listed before and after the packed ones are read, so that no run is missed that is packed or unpacked meanwhile.
    before = list(run_folders(packed.folder))
    lines = packed.lines
    found = {place.name: place for place in run_folders(packed.folder)}
    found |= {place.name: place for place in before if place.name not in lines}
    others = (run_folder(packed.folder, key) for key in keys if key not in found)
    return found | {place.name: place for place in others if place.exists()}


def has_records(suite_folder: Path) -> bool:
    """Whether there is a folder of runs, even an empty one, or packed runs."""
    return (suite_folder / "runs").is_dir() or _has_packed(suite_folder)


def suites_below(path: Path) -> list[Path]:
    """The folders of suites with records: the path itself, or else those one level further down, or else two."""
    for level in LEVELS:
        places = sorted(path.glob(level)) if level else [path]
        found = [place for place in places if _has_packed(place) or any(run_folders(place))]
        if found:
            return found
    return []


def _has_packed(suite_folder: Path) -> bool:
    return any((suite_folder / name).exists() for name in PACKED_FILES)


def _from_folder(place: Path) -> Run:
    try:
        return read_run(place)
    except DamagedRecordError:
        packed = Packed(place.parent.parent)
        if place.exists() or place.name not in packed.lines:
            raise
        # It was packed since it was looked for.
        return packed.run(place.name)


def _from_packed(packed: Packed, key: str) -> Run:
    place = run_folder(packed.folder, key)
    try:
        return packed.run(key)
    except DamagedRecordError:
        if not place.exists():
            raise
        # It was unpacked since it was looked for.
        return read_run(place)
