"""``run_bench.py pack`` and ``unpack``: a suite's runs from a folder each into two files, and back.

Both may be stopped at any moment and called again, beside commands that train and read: a run is whole in one of the two
forms at least, or for a while in both. Who trains a run holds its lock, and keeps it from being packed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.errors import StorageError, UserError
from benchmarks.records.locks import is_free, lock_of
from benchmarks.records.packed import (
    LINES_FILE,
    PACKED_FILES,
    PLAIN_LINES_FILE,
    ROWS_FILE,
    Packed,
    content_in,
    line_of,
    part_of,
)
from benchmarks.records.reading import suites_below
from benchmarks.records.schema import COLUMNS, Record
from benchmarks.records.storage import (
    RUN_FILE,
    DamagedRecordError,
    checksum_line,
    parquet,
    read_files,
    read_run,
    run_folder,
    run_folders,
    write_files,
)

ARROW = {"step": pa.int64(), "replica": pa.int32(), "task": pa.string()}
PANDAS = {"step": "int64", "replica": "int32", "task": "str"}
"""Types of the columns of rows, in the packed file and in memory; all others are numbers of double precision."""
RUNS_TOGETHER = 32
"""Compressed together: records are much alike, and a damaged byte costs so many."""
SMALLEST = 19
"""The level of zstd: packed files are written once and kept for years."""
LOCK, SCRATCH = "packing", ".packing-"


@dataclass
class Packing:
    """What became of the runs below a folder."""

    changed: int = 0
    """Packed, or unpacked."""
    left: list[str] = field(default_factory=list)
    """What stays as it is or could not be kept, each with the reason."""


@dataclass(frozen=True)
class _Run:
    """A run as its files have it."""

    content: bytes
    """Of ``run.json``."""
    rows: pd.DataFrame


def pack_runs(folder: Path) -> Packing:
    """Put the runs of every suite below a folder into two files.

    Runs that somebody trains and damaged ones stay as they are. Raises UserError where there are no records or another
    command packs them, StorageError where files cannot be written.
    """
    return _in_every_suite(folder, _pack)


def unpack_runs(folder: Path) -> Packing:
    """Give every packed run below a folder a folder of its own. Raises as ``pack_runs``."""
    return _in_every_suite(folder, _unpack)


def _in_every_suite(folder: Path, carry_out: Callable[[Path, Packing], None]) -> Packing:
    suites = suites_below(folder)
    if not suites:
        raise UserError(f"expected records below {folder}, found none")
    told = Packing()
    for suite in suites:
        try:
            with lock_of(suite, LOCK):
                for scratch in suite.glob(f"{SCRATCH}*"):
                    shutil.rmtree(scratch)
                carry_out(suite, told)
        except filelock.Timeout as error:
            raise UserError(f"{suite}: expected no other command that packs or unpacks it, found one") from error
        except OSError as error:
            raise StorageError.of(error, suite) from error
    return told


def _pack(suite: Path, told: Packing) -> None:
    columns = list(COLUMNS)
    before, lost = _packed_before(suite, columns)
    new = dict(_runs_to_pack(suite, columns, told))
    if not new and not (suite / PLAIN_LINES_FILE).exists():
        return
    # A folder wins over what is packed of its run.
    reasons = [why for key, why in lost.items() if not run_folder(suite, key).exists()]
    if reasons:
        told.left += [*reasons, f"{suite}: the damaged files are set aside as {_set_files_aside(suite, reasons)}"]
    _write(suite, columns, dict(sorted((before | new).items())))
    for key, run in new.items():
        _remove(run_folder(suite, key), run.content)
    told.changed += len(new)


def _runs_to_pack(suite: Path, columns: list[str], told: Packing) -> Iterator[tuple[str, _Run]]:
    """Key and run of all folders that nobody holds and that can be read; their further columns are added to the columns."""
    for place in run_folders(suite):
        if not is_free(lock_of(suite, place.name)):
            told.left.append(f"{place}: somebody trains it")
            continue
        try:
            content, _, rows = read_files(place)
        except DamagedRecordError as error:
            told.left.append(str(error))
            continue
        why_not = _why_not(content, rows, columns)
        if why_not:
            told.left.append(f"{place}: {why_not}")
        else:
            yield place.name, _Run(content, rows)


def _why_not(content: bytes, rows: pd.DataFrame, columns: list[str]) -> str:
    """Why a run cannot be packed without loss; empty if it can, and then its further columns are among the columns."""
    if content_in(line_of(content, rows)) != content:
        return "expected run.json as it is written here, found other spaces in it"
    if not len(rows):
        return ""
    for name in rows.columns:
        kind = PANDAS.get(name, "float64")
        if str(rows[name].dtype) != kind:
            return f"expected {kind} in column {name}, found {rows[name].dtype}"
    further = [name for name in rows.columns if name not in columns]
    if [name for name in (*columns, *further) if name in rows.columns] != list(rows.columns):
        return f"expected columns in the order {', '.join((*columns, *further))}, found {', '.join(rows.columns)}"
    columns += further
    return ""


def _packed_before(suite: Path, columns: list[str]) -> tuple[dict[str, _Run], dict[str, str]]:
    """The packed runs, whose further columns are added to the columns; and what is lost, by key, with the reason."""
    packed = Packed(suite)
    found: dict[str, _Run] = {}
    lost = {f"line {number}": why for number, why in enumerate(packed.unreadable)}
    for key in packed.known:
        try:
            packed.run(key)
            found[key] = _Run(packed.content(key), packed.trajectory(key))
        except DamagedRecordError as error:
            lost[key] = str(error)
            continue
        columns += [name for name in found[key].rows.columns if name not in columns]
    return found, lost


def _set_files_aside(suite: Path, reasons: list[str]) -> Path:
    attic = suite / "set_aside"
    attic.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="packed-", dir=attic))
    for name in PACKED_FILES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(suite / name, target)
    (target / "reason.txt").write_text("\n".join([*reasons, ""]), encoding="utf-8")
    return target


def _write(suite: Path, columns: list[str], runs: Mapping[str, _Run]) -> None:
    """Put the files of these runs, once they have been read back, in the place of those that are there."""
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=suite, ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        parts = (part_of(line_of(run.content, run.rows) for _, run in some) for some in _cut(runs))
        (folder / LINES_FILE).write_bytes(b"".join(parts))
        _write_rows(folder / ROWS_FILE, columns, runs)
        _read_back(folder, runs)
        # Runs that only one of the files has meanwhile are folders too, and these win.
        for name in (ROWS_FILE, LINES_FILE):
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
            (folder / name).replace(suite / name)
        (suite / PLAIN_LINES_FILE).unlink(missing_ok=True)


def _cut(runs: Mapping[str, _Run]) -> Iterator[list[tuple[str, _Run]]]:
    """Keys and runs of what lies together."""
    each = list(runs.items())
    return (each[start : start + RUNS_TOGETHER] for start in range(0, len(each), RUNS_TOGETHER))


def _write_rows(path: Path, columns: list[str], runs: Mapping[str, _Run]) -> None:
    kinds = {"key": pa.string(), **{name: ARROW.get(name, pa.float64()) for name in columns}}
    floats = [name for name, kind in kinds.items() if kind == pa.float64()]
    with pq.ParquetWriter(
        path,
        pa.schema(list(kinds.items())),
        compression="zstd",
        compression_level=SMALLEST,
        use_dictionary=["key", "task"],
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
        | dict.fromkeys(("step", "replica"), "DELTA_BINARY_PACKED"),
        write_statistics=["key"],
        write_page_checksum=True,
    ) as file:
        for some in _cut(runs):
            file.write_table(pa.concat_tables(_table(key, run.rows, kinds) for key, run in some))


def _table(key: str, rows: pd.DataFrame, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    arrays = [pa.repeat(key, len(rows))]
    for name, kind in list(kinds.items())[1:]:
        # Not a number is a value here, see ``packed``.
        has = name in rows.columns and len(rows)
        arrays.append(pa.array(rows[name].to_numpy(), kind, from_pandas=False) if has else pa.nulls(len(rows), kind))
    return pa.table(arrays, pa.schema(list(kinds.items())))


def _read_back(folder: Path, runs: Mapping[str, _Run]) -> None:
    """Raise UserError unless all is as it was."""
    packed = Packed(folder)
    for key, run in runs.items():
        try:
            same = packed.content(key) == run.content and packed.trajectory(key).equals(run.rows)
        except DamagedRecordError:
            same = False
        if not same and not (run.rows.empty and packed.trajectory(key).empty):
            raise UserError(f"{folder.parent}: {key}: expected a run that can be packed without loss; nothing was packed")


def _remove(place: Path, content: bytes) -> None:
    """Remove the folder of a run that is packed, unless somebody trains it again or has recorded it anew."""
    with contextlib.suppress(filelock.Timeout, FileNotFoundError), lock_of(place.parent.parent, place.name):
        if (place / RUN_FILE).read_bytes() == content:
            scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
            place.replace(scratch / place.name)
            shutil.rmtree(scratch)


def _unpack(suite: Path, told: Packing) -> None:
    packed = Packed(suite)
    left = list(packed.unreadable)
    for key in sorted(packed.known):
        place = run_folder(suite, key)
        try:
            with lock_of(suite, key):
                if place.exists():
                    read_run(place)
                else:
                    run = packed.run(key)
                    _write_folder(place, packed.content(key), run.record, packed.trajectory(key))
                    told.changed += 1
        except filelock.Timeout:
            left.append(f"{place}: somebody trains it")
        except DamagedRecordError as error:
            left.append(str(error))
    told.left += left
    if not left:
        # All are folders now: what is left of the files after one of them says nothing.
        for name in PACKED_FILES:
            (suite / name).unlink(missing_ok=True)


def _write_folder(place: Path, content: bytes, record: Record, rows: pd.DataFrame) -> None:
    """The files as they were; the record says the checksum of the rows' file, which another version writes otherwise."""
    trajectory = parquet(rows)
    now = hashlib.sha256(trajectory).hexdigest()
    if now != record.trajectory_sha256:
        rest = content.partition(b"\n")[2].replace(record.trajectory_sha256.encode(), now.encode())
        content = checksum_line(rest) + b"\n" + rest
    write_files(place, content, trajectory)
