"""The files of recorded runs: read back checked, written whole, set aside where they are damaged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import pandas as pd
from pydantic import ValidationError

from benchmarks.errors import UNREADABLE
from benchmarks.records.locks import lock_of
from benchmarks.records.schema import COLUMNS, SCHEMA, Record, Run

RUN_FILE = "run.json"
TRAJECTORY_FILE = "trajectory.parquet"
OLDER = range(1, SCHEMA)
"""Forms that ``migrate`` rewrites."""
IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""What a system says when a folder is to take the place of something that is not an empty folder."""
NOT_AS_WRITTEN = "it is not as it was written"


class DamagedRecordError(Exception):
    """A run folder that cannot be used; the message says why, in one line."""


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises DamagedRecordError if a single byte is not as it was written."""
    _, record, trajectory = read_files(folder)
    return complete(record, trajectory, folder / TRAJECTORY_FILE)


def read_files(folder: Path) -> tuple[bytes, Record, pd.DataFrame]:
    """The bytes of ``run.json``, the record in them, and the rows with the columns of their file. Raises as ``read_run``."""
    try:
        content = (folder / RUN_FILE).read_bytes()
        record = parse_record(content, folder / RUN_FILE, folder.parent.parent)
        rows = (folder / TRAJECTORY_FILE).read_bytes()
        if hashlib.sha256(rows).hexdigest() != record.trajectory_sha256:
            raise DamagedRecordError(f"{folder / TRAJECTORY_FILE}: cannot be read: {NOT_AS_WRITTEN}")
        trajectory = pd.read_parquet(io.BytesIO(rows))
    except UNREADABLE as error:
        raise DamagedRecordError(f"{folder}: cannot be read: {first_line(error)}") from error
    if folder.name != record.key:
        raise DamagedRecordError(f"{folder / RUN_FILE}: expected key {folder.name}, found {record.key}")
    return content, record, trajectory


def parse_record(content: bytes, place: object, suite_folder: Path) -> Record:
    """The record in a ``run.json``: a line with the checksum of all that follows, which is the rest of one JSON object.

    place: where the bytes were found. Raises DamagedRecordError.
    """
    first, _, rest = content.partition(b"\n")
    whole = first == checksum_line(rest)
    try:
        record = Record.model_validate_json(b"{" + rest)
        if whole and record.schema_version == SCHEMA:
            return record
        wrong = f"cannot be read: {NOT_AS_WRITTEN}"
    except ValidationError as error:
        first_error = error.errors()[0]
        where = ".".join(str(part) for part in first_error["loc"])
        wrong = f"{where}: {first_error['msg']}" if whole else f"cannot be read: {NOT_AS_WRITTEN}"
    found = schema_version(content)
    if found != SCHEMA and (whole or found is not None):
        hint = f"; `run_bench.py migrate {suite_folder}` rewrites older ones" if found in OLDER else ""
        wrong = f"expected schema_version {SCHEMA}, found {found!r}{hint}"
    raise DamagedRecordError(f"{place}: {wrong}")


def complete(record: Record, trajectory: pd.DataFrame, place: object) -> Run:
    """The run, with the columns that every trajectory has. Raises DamagedRecordError where some are missing.

    place: where the rows were found.
    """
    if "count" not in trajectory.columns:
        # Records from before batches could lack tasks. Where the run is written again, the column is in its place.
        further = [name for name in trajectory.columns if name not in COLUMNS]
        trajectory = trajectory.assign(count=math.nan)
        trajectory = trajectory[[name for name in (*COLUMNS, *further) if name in trajectory.columns]]
    missing = [column for column in COLUMNS if column not in trajectory.columns]
    if missing:
        raise DamagedRecordError(f"{place}: expected columns {', '.join(COLUMNS)}, found none of {missing}")
    if record.state == "finished" and trajectory.empty:
        raise DamagedRecordError(f"{place}: expected rows of a finished run, found none")
    return Run(record, trajectory)


def is_as_written(content: bytes) -> bool:
    """Whether a record since form 2 begins with the checksum of all that follows."""
    first, _, rest = content.partition(b"\n")
    return first == checksum_line(rest)


def schema_version(content: bytes) -> object:
    """What a record says of its form; None where it says nothing."""
    try:
        record = json.loads(content)
    except UNREADABLE:
        return None
    return record.get("schema_version") if isinstance(record, dict) else None


def first_line(error: BaseException) -> str:
    """Of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def checksum_line(rest: bytes) -> bytes:
    """The first line of a ``run.json`` with the given rest."""
    return b'{"checksum": "' + hashlib.sha256(rest).hexdigest().encode() + b'",'


def write_run(runs_folder: Path, record: Record, trajectory: pd.DataFrame) -> Path:
    """Write a run so that its folder is complete or not there; an older record of the same key is replaced.

    Of several writers at once the last one's record stays. Raises OSError.
    """
    return write_record(runs_folder, record, parquet(trajectory))


def parquet(trajectory: pd.DataFrame) -> bytes:
    """The content of the trajectory's file."""
    content = io.BytesIO()
    trajectory.to_parquet(content, index=False, compression="zstd")
    return content.getvalue()


def write_record(runs_folder: Path, record: Record, trajectory: bytes) -> Path:
    """As ``write_run``, with the bytes of the trajectory's file."""
    record = record.model_copy(update={"trajectory_sha256": hashlib.sha256(trajectory).hexdigest()})
    rest = record.model_dump_json(indent=1).removeprefix("{\n").encode()
    return write_files(runs_folder / record.key, checksum_line(rest) + b"\n" + rest, trajectory)


def write_files(target: Path, content: bytes, trajectory: bytes) -> Path:
    """As ``write_run``, with the folder of the run and the bytes of its files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        (scratch / TRAJECTORY_FILE).write_bytes(trajectory)
        (scratch / RUN_FILE).write_bytes(content)
        for name in (TRAJECTORY_FILE, RUN_FILE):
            with (scratch / name).open("rb") as file:
                os.fsync(file.fileno())
        scratch.chmod(0o755)
        return _replace(target, scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _replace(target: Path, scratch: Path) -> Path:
    """Put a complete folder in the place of whatever is there, as often as another writer comes in between."""
    while True:
        place = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent, ignore_cleanup_errors=True)
        with place as old:
            with contextlib.suppress(FileNotFoundError):
                target.replace(Path(old) / target.name)
            try:
                return scratch.replace(target)
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise


def set_aside(folder: Path, reason: str) -> Path:
    """Move an unusable run folder out of the way, with the reason in a file, and return where it went.

    Raises FileNotFoundError where another command was faster.
    """
    attic = folder.parent.parent / "set_aside"
    attic.mkdir(parents=True, exist_ok=True)
    number = 0
    while (target := attic / f"{folder.name}-{number}").exists():
        number += 1
    if folder.is_file():
        target.mkdir()
        folder.replace(target / folder.name)
    else:
        folder.replace(target)
    (target / "reason.txt").write_text(reason + "\n", encoding="utf-8")
    return target


def run_folders(suite_folder: Path) -> Iterator[Path]:
    """The folders of recorded runs, in the order of their keys."""
    runs = suite_folder / "runs"
    if runs.is_dir():
        yield from sorted(path for path in runs.iterdir() if path.is_dir() and not path.name.startswith("."))


def run_folder(folder: Path, key: str) -> Path:
    """Where a run's record lies."""
    return folder / "runs" / key


def remove_leftovers(folder: Path) -> None:
    """Remove half-written run folders and checkpoints whose writer is gone (their lock is free)."""
    records = {path: path.name[1:].rpartition("-")[0] for path in (folder / "runs").glob(".*-*")}
    checkpoints = {path: path.name.partition(".")[0] for path in (folder / "unfinished").glob("*.writing")}
    for scratch, key in (records | checkpoints).items():
        with contextlib.suppress(filelock.Timeout, OSError), lock_of(folder, key):
            if scratch in records:
                shutil.rmtree(scratch, ignore_errors=True)
            else:
                scratch.unlink(missing_ok=True)
