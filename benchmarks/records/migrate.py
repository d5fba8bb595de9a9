"""``run_bench.py migrate``: records of an older form get today's form and key. Nothing is trained, and no number changes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

import weighting
from benchmarks.catalog import own_source
from benchmarks.errors import UNREADABLE, StorageError, UserError, one_line
from benchmarks.records.packed import PACKED_FILES, Packed, content_in
from benchmarks.records.reading import Unusable, read_all, suites_below
from benchmarks.records.renames import rename
from benchmarks.records.schema import SCHEMA, Record, RunSpec
from benchmarks.records.storage import (
    NOT_AS_WRITTEN,
    OLDER,
    RUN_FILE,
    TRAJECTORY_FILE,
    DamagedRecordError,
    is_as_written,
    parquet,
    read_run,
    run_folder,
    run_folders,
    schema_version,
    write_record,
)

WITHOUT_CHECKSUMS = 1
"""The form of records that have none, and no versions of methods and problems."""


@dataclass
class Migrated:
    """What became of the records below a folder."""

    rewritten: int = 0
    already: int = 0
    left: list[str] = field(default_factory=list)
    """Records that stay as they are, each with the reason."""


def migrate(folder: Path) -> Migrated:
    """Rewrite every record below a folder: a suite's, or a folder of suites.

    It may be stopped at any moment and called again: a record is whole under its old or its new key, or for a moment under
    both. Raises UserError where there are none, StorageError where they cannot be written.
    """
    found = Migrated()
    suites = suites_below(folder)
    if not suites:
        raise UserError(f"expected records below {folder}, found none")
    for place in (place for suite in suites for place in run_folders(suite)):
        try:
            _migrate_one(place, found)
        except DamagedRecordError as error:
            found.left.append(str(error))
        except ValidationError as error:
            found.left.append(f"{place}: {'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}")
        except UNREADABLE as error:
            found.left.append(f"{place}: cannot be read: {one_line(error)}")
    for suite in suites:
        _migrate_packed(suite, found)
    return found


def _migrate_packed(suite: Path, found: Migrated) -> None:
    """Packed runs of an older form become folders; ``pack`` packs them again. Those of today's form are looked at."""
    packed = Packed(suite)
    if not any(schema_version(content_in(line)) in OLDER for line in packed.lines.values()):
        _look_at_packed(suite, found)
        return
    left = [*packed.unreadable]
    for key in sorted(packed.known):
        try:
            content, rows = packed.content(key), packed.trajectory(key)
            before = _as_written(packed.lines_file, content)
            rename(before)
            record = _renewed(before, rows)
            if not run_folder(suite, record.key).exists():
                write_record(suite / "runs", record, parquet(rows))
            found.rewritten += 1
        except OSError as error:
            raise StorageError.of(error, suite) from error
        except (DamagedRecordError, ValueError) as error:
            left.append(f"{packed.lines_file}: {key}: {one_line(error)}")
    found.left += left
    if not left:
        # First the lines: rows without a line say nothing where there is a folder.
        for name in PACKED_FILES:
            (suite / name).unlink(missing_ok=True)


def _look_at_packed(suite: Path, found: Migrated) -> None:
    """Whether packed runs of today's form can be read."""
    keys = Packed(suite).known - {place.name for place in run_folders(suite)}
    for run in read_all(suite, keys) if keys else ():
        if isinstance(run, Unusable):
            found.left.append(run.reason)
        else:
            found.already += 1


def _migrate_one(place: Path, found: Migrated) -> None:
    content = (place / RUN_FILE).read_bytes()
    if schema_version(content) not in OLDER:
        read_run(place)
        found.already += 1
        return
    trajectory = (place / TRAJECTORY_FILE).read_bytes()
    before = _as_written(place, content)
    if "trajectory_sha256" in before and hashlib.sha256(trajectory).hexdigest() != before["trajectory_sha256"]:
        raise DamagedRecordError(f"{place}: cannot be read: {NOT_AS_WRITTEN}")
    # Refused if a page is not as it was written.
    rows = pd.read_parquet(io.BytesIO(trajectory), page_checksum_verification=True)
    try:
        rename(before)
    except ValueError as error:
        found.left.append(f"{place}: {error}")
        return
    record = _renewed(before, rows)
    target = place.parent / record.key
    if target != place and target.exists() and schema_version((target / RUN_FILE).read_bytes()) in OLDER:
        found.left.append(f"{place}: expected a key of its own, found {record.key} in use")
        return
    try:
        write_record(place.parent, record, trajectory)
        if target != place:
            shutil.rmtree(place)
    except OSError as error:
        raise StorageError.of(error, target) from error
    found.rewritten += 1


def _as_written(place: Path, content: bytes) -> dict[str, Any]:
    """The record as JSON. Raises DamagedRecordError where its checksum, if it has one, says that it has changed."""
    record: dict[str, Any] = json.loads(content)
    if record["schema_version"] != WITHOUT_CHECKSUMS:
        if not is_as_written(content):
            raise DamagedRecordError(f"{place}: cannot be read: {NOT_AS_WRITTEN}")
        del record["checksum"]
    return record


def _never_near_the_floor(content: dict[str, Any], trajectory: pd.DataFrame) -> bool:
    """GradNorm's version 2 keeps weights at or above 0.001 where version 1 let them cross 0.

    Where no weight was ever below 0 and every logged one is at least ten times the floor, both are the same rule: what was
    trained again came out bit for bit.
    """
    flagged = any(flag["name"] == "negative_weights" for flag in content["flags"])
    return not flagged and bool(trajectory["weight"].min() >= 0.01)


def _every_task_in_every_batch(content: dict[str, Any], trajectory: pd.DataFrame) -> bool:
    """CoBa's version 2 differs where validation batches lack tasks (coba_mftcoder) or a task has no slope at all."""
    return bool((trajectory["weight"].dropna() > 0).all()) and not any("zero" in flag["name"] for flag in content["flags"])


SAME_NUMBERS: dict[str, tuple[int, Callable[[dict[str, Any], pd.DataFrame], bool]]] = {
    "gradnorm": (2, _never_near_the_floor),
    "coba": (2, _every_task_in_every_batch),
}
"""Method -> the version whose numbers are those of version 1, and for which runs."""


def _version(content: dict[str, Any], trajectory: pd.DataFrame) -> int:
    name = weighting.family(content["run"]["weighter"]["name"])
    version, same = SAME_NUMBERS.get(name, (1, lambda *_: True))
    return version if same(content, trajectory) else 1


def _renewed(content: dict[str, Any], trajectory: pd.DataFrame) -> Record:
    """The record in today's form. What was not part of a run in the first form is what it was in fact."""
    if content["schema_version"] != WITHOUT_CHECKSUMS:
        key = RunSpec.model_validate_json(json.dumps(content["run"])).key
        return Record.model_validate_json(json.dumps({**content, "schema_version": SCHEMA, "key": key}))
    run = content["run"]
    run["training"]["threads"] = content["machine"].get("threads", 1)
    run["problem"]["version"], run["weighter"]["version"] = 1, _version(content, trajectory)
    for spec in (run["problem"], run["weighter"]):
        spec["source"] = _source(spec["name"], spec.get("source"))
    key = RunSpec.model_validate_json(json.dumps(run)).key
    return Record.model_validate_json(json.dumps({**content, "schema_version": SCHEMA, "key": key}))


def _source(name: str, recorded: str | None) -> str | None:
    """The hash as it is made today, if the file of a class is still the one that the record says."""
    if recorded is None:
        return None
    try:
        file = Path(name.rpartition(":")[0])
        same = file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest()[:16] == recorded
        return own_source(name) if same else recorded
    except UserError:
        return recorded
