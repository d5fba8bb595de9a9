"""Runs packed into two files of a suite's folder: each is a line of ``runs.jsonl.gz`` and rows of ``trajectories.parquet``.

A line is the run's ``run.json`` with a tab for every line break and the indentation after it, and before all else the
checksum of its rows. The rows are those of its trajectory after a column ``key``. Null says that the run's own file lacks
the column, NaN that it has no number there. Lines and rows of some runs each are compressed together: what is damaged in
one such part costs the runs in it, and no others.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.errors import UNREADABLE
from benchmarks.records.schema import COLUMNS, Run
from benchmarks.records.storage import NOT_AS_WRITTEN, DamagedRecordError, complete, first_line, parse_record

LINES_FILE = "runs.jsonl.gz"
PLAIN_LINES_FILE = "runs.jsonl"
"""As earlier versions wrote it, and ``gunzip`` does: read too, and gone with the next ``pack``."""
ROWS_FILE = "trajectories.parquet"
PACKED_FILES = (LINES_FILE, PLAIN_LINES_FILE, ROWS_FILE)
GZIP, PART = 31, b"\x1f\x8b\x08\x00"
"""The format as zlib calls it, and what each part of such a file begins with."""
LARGEST_PART = 2**26
"""Bytes, unpacked: more is not what was written here."""
WRONG = (*UNREADABLE, pa.ArrowException)
"""What reading rows raises where the file is damaged."""
START = re.compile(rb'\{"rows_sha256": "([0-9a-f]{64})",\t(?="checksum": ")')
"""What a line has before the content of ``run.json``."""
KEY = re.compile(rb'\t"key": "([0-9a-f]{16})"')

Column = NDArray[Any]


class Packed:
    """The packed runs of a suite's folder, as they were when they were first asked for; none where there are no files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, key: str) -> Run:
        """Raises DamagedRecordError if anything of it is not as it was written."""
        record = parse_record(self.content(key), f"{self.lines_file}: {key}", self.folder)
        if record.key != key:
            raise DamagedRecordError(f"{self.lines_file}: expected key {key}, found {record.key}")
        return complete(record, self.trajectory(key), f"{self.folder / ROWS_FILE}: {key}")

    def content(self, key: str) -> bytes:
        """The ``run.json`` of a run. Raises DamagedRecordError where its line does not begin as one."""
        line = self._line(key)
        if START.match(line) is None:
            raise DamagedRecordError(f"{self.lines_file}: {key}: cannot be read: {NOT_AS_WRITTEN}")
        return content_in(line)

    def trajectory(self, key: str) -> pd.DataFrame:
        """The rows of a run, with the columns that its own file has. Raises DamagedRecordError if they are others."""
        start = START.match(self._line(key))
        rows = self._rows.get(key)
        try:
            if start is not None and start[1] == rows_digest({} if rows is None else rows.columns()):
                return no_rows() if rows is None else rows.frame()
        except WRONG as error:
            raise DamagedRecordError(f"{self.folder / ROWS_FILE}: {key}: cannot be read: {first_line(error)}") from error
        why = self._unreadable_rows or NOT_AS_WRITTEN
        raise DamagedRecordError(f"{self.folder / ROWS_FILE}: {key}: cannot be read: {why}")

    def _line(self, key: str) -> bytes:
        if key not in self.lines:
            raise DamagedRecordError(f"{self.lines_file}: expected a line of run {key} that can be read, found none")
        return self.lines[key]

    @functools.cached_property
    def lines_file(self) -> Path:
        """The file of lines that is there, or would be."""
        plain = self.folder / PLAIN_LINES_FILE
        path = self.folder / LINES_FILE
        return plain if plain.exists() and not path.exists() else path

    @functools.cached_property
    def known(self) -> set[str]:
        """The keys of all runs of which a line or rows are there."""
        return {*self.lines, *self._rows}

    @functools.cached_property
    def lines(self) -> dict[str, bytes]:
        """Key -> line."""
        return self._read_lines[0]

    @functools.cached_property
    def unreadable(self) -> list[str]:
        """What is wrong with lines of which not even the key can be told, each in a line."""
        return self._read_lines[1]

    @functools.cached_property
    def _read_lines(self) -> tuple[dict[str, bytes], list[str]]:
        found, wrong = _lines_of(self.folder / LINES_FILE)
        # An earlier version may have packed further runs since.
        others, also_wrong = _lines_of(self.folder / PLAIN_LINES_FILE)
        wrong += also_wrong
        wrong += [
            f"{self.folder / PLAIN_LINES_FILE}: {key}: expected the line that is in {LINES_FILE}, found another"
            for key, line in others.items()
            if found.setdefault(key, line) != line
        ]
        return found, wrong

    @functools.cached_property
    def _rows(self) -> dict[str, _Rows]:
        """Key -> rows; a key may be missing where they cannot be read."""
        return self._read_rows[0]

    @functools.cached_property
    def _unreadable_rows(self) -> str:
        """Why some of the rows cannot be read; empty where all can."""
        return self._read_rows[1]

    @functools.cached_property
    def _read_rows(self) -> tuple[dict[str, _Rows], str]:
        try:
            file = pq.ParquetFile(self.folder / ROWS_FILE, page_checksum_verification=True)
        except FileNotFoundError:
            return {}, "expected a file, found none"
        except WRONG as error:
            return {}, first_line(error)
        with file:
            try:
                return _by_run(file.read()), ""
            except WRONG as error:
                why = first_line(error)
            found: dict[str, _Rows] = {}
            # Some page is damaged: what lies in other groups of rows is not.
            for group in range(file.num_row_groups):
                try:
                    found |= _by_run(file.read_row_group(group))
                except WRONG:
                    continue
            return found, why


def _lines_of(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """Key -> line of a file, compressed or not, and what is wrong with it; nothing where it is not there."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [f"{path}: cannot be read: {error.strerror}"]
    parts = [content] if path.name == PLAIN_LINES_FILE else list(parts_in(content))
    wrong = [
        f"{path}: part {number} of {len(parts)}: cannot be read: {NOT_AS_WRITTEN}"
        for number, part in enumerate(parts, 1)
        if part is None
    ]
    found: dict[str, bytes] = {}
    for number, line in enumerate(b"".join(part or b"" for part in parts).split(b"\n"), 1):
        key = KEY.search(line)
        if key is not None and found.setdefault(key[1].decode(), line) is line:
            continue
        if line or key is not None:
            wrong.append(f"{path}: line {number}: cannot be read: {NOT_AS_WRITTEN}")
    return found, wrong


def no_rows() -> pd.DataFrame:
    """The trajectory of a run that ended before its first row."""
    return pd.DataFrame(columns=list(COLUMNS))


def line_of(content: bytes, rows: pd.DataFrame) -> bytes:
    """The line of a run, from the content of its ``run.json`` and its rows."""
    pieces = (piece.lstrip(b" ") for piece in content.removeprefix(b"{").split(b"\n"))
    return b'{"rows_sha256": "' + rows_digest(columns_of(rows)) + b'",\t' + b"\t".join(pieces)


def part_of(lines: Iterable[bytes]) -> bytes:
    """Some lines, compressed: a gzip file, or what may follow one in the same file."""
    return gzip.compress(b"\n".join([*lines, b""]), mtime=0)


def parts_in(content: bytes) -> Iterator[bytes | None]:
    """The lines of each part of a file; None for one that is not as it was written."""
    while content:
        reader = zlib.decompressobj(GZIP)
        try:
            lines = reader.decompress(content, LARGEST_PART)
        except zlib.error:
            lines = b""
        if reader.eof:
            yield lines
            content = reader.unused_data
        else:
            yield None
            _, mark, rest = content[1:].partition(PART)
            content = mark + rest


def content_in(line: bytes) -> bytes:
    """The content of ``run.json`` in a line that begins with ``START``."""
    first, *rest = START.sub(b"{", line, count=1).split(b"\t")
    depth, pieces = 1, [first]
    for piece in rest:
        depth -= piece[:1] in (b"}", b"]")
        pieces.append(b" " * depth + piece)
        depth += piece[-1:] in (b"{", b"[")
    return b"\n".join(pieces)


def columns_of(rows: pd.DataFrame) -> dict[str, Column]:
    """Name -> values, of a trajectory that has rows; else nothing."""
    if rows.empty:
        return {}
    return {str(name): rows[name].to_numpy(object if name == "task" else None) for name in rows.columns}


def rows_digest(columns: Mapping[str, Column]) -> bytes:
    """SHA-256 of names, types and values of all columns, in their order. Raises TypeError where tasks are not text."""
    digest = hashlib.sha256()
    for name, values in columns.items():
        digest.update(f"{name}\0{values.dtype}\0".encode())
        if values.dtype == object:
            digest.update("\0".join(values).encode())
        else:
            digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest().encode()


@dataclass(frozen=True)
class _Rows:
    """The rows of one run among those of others."""

    everything: Mapping[str, Column]
    frames: Mapping[tuple[str, ...], pd.DataFrame]
    """Names -> these columns of all rows."""
    names: tuple[str, ...]
    """Of the columns that the run's own file has."""
    start: int
    end: int

    def columns(self) -> dict[str, Column]:
        return {name: self.everything[name][self.start : self.end] for name in self.names}

    def frame(self) -> pd.DataFrame:
        return self.frames[self.names].iloc[self.start : self.end].reset_index(drop=True)


def _by_run(table: pa.Table) -> dict[str, _Rows]:
    keys = pc.run_end_encode(table["key"].combine_chunks())
    frame = table.drop_columns("key").to_pandas()
    everything = columns_of(frame)
    null = {name: table[name].is_null().to_numpy() for name in everything}
    frames: dict[tuple[str, ...], pd.DataFrame] = {}
    found = {}
    ends = keys.run_ends.to_pylist()
    for key, start, end in zip(keys.values.to_pylist(), [0, *ends], ends, strict=False):
        names = tuple(name for name, lacking in null.items() if not lacking[start])
        if names not in frames:
            frames[names] = frame[list(names)]
        found[str(key)] = _Rows(everything, frames, names, start, end)
    return found
