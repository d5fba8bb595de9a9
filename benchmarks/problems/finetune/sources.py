"""Rows of a task: from a folder of texts, a JSON, CSV, TSV or Parquet file, or the hub."""

from __future__ import annotations

import csv
import fnmatch
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contract import Split
from benchmarks.errors import one_line
from benchmarks.problems.finetune import OWNER
from benchmarks.problems.finetune.options import Source
from benchmarks.problems.text.userdata import folder_texts, parse_json, read_unpacked

Row = Mapping[str, Any]
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Of files, all but Parquet also with .gz behind."""


def rows_of(task: str, place: str | Mapping[str, str] | None, source: Source) -> dict[Split, list[Row]]:
    """Split -> rows that match ``where``. place: a path, or split -> path; None: from the hub. Raises ValueError."""
    if place is None:
        found = _from_hub(task, source)
    elif isinstance(place, str | Path):
        found = {"train": _from_path(task, Path(place).expanduser(), source)}
    else:
        found = {_split(task, name): _from_path(task, Path(path).expanduser(), source) for name, path in place.items()}
    kept: dict[Split, list[Row]] = {
        split: [row for row in rows if _matches(task, row, source.where)] for split, rows in found.items()
    }
    for split, rows in kept.items():
        if not rows:
            raise ValueError(f"{OWNER}: expected rows of task {task!r}, found none for {split} of {len(found[split])} read")
    return kept


def field_of(task: str, row: Row, name: str) -> Any:
    """A field of a row; dots lead into mappings and lists. Raises ValueError that names the fields found."""
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif value is None:
            return None
        else:
            inside = _listed(value) if isinstance(value, Mapping) else f"{type(value).__name__} at {part!r}"
            raise ValueError(f"{OWNER}: expected rows of task {task!r} with the field {name!r}, found {inside or 'none'}")
    return value


def _listed(names: Iterable[object]) -> str:
    """In one line, whatever is in them."""
    return ", ".join(" ".join(str(name).split()) for name in names)


def _split(task: str, name: str) -> Split:
    if name not in ("train", "validation", "test"):
        raise ValueError(f"{OWNER}: expected data of task {task!r} by train, validation and test, found {name!r}")
    return name  # type: ignore[return-value]


def _matches(task: str, row: Row, where: Mapping[str, str]) -> bool:
    for name, pattern in where.items():
        wanted = not pattern.startswith("!")
        if fnmatch.fnmatchcase(str(field_of(task, row, name)), pattern.removeprefix("!")) != wanted:
            return False
    return True


# ---- files -----------------------------------------------------------------------------------------------------------


def _from_path(task: str, path: Path, source: Source) -> list[Row]:
    if path.is_dir():
        return [{"path": key, "text": text} for key, text in folder_texts(path)]
    kind = Path(path.name.removesuffix(".gz")).suffix
    if not path.is_file() or kind not in ENDINGS:
        raise ValueError(
            f"{OWNER}: expected data of task {task!r} to be a folder or a file named *{', *'.join(ENDINGS)}, found {path}"
        )
    if kind == ".parquet":
        return _parquet(task, path)
    text = read_unpacked(OWNER, task, path)
    if kind in (".csv", ".tsv"):
        return list(_table(task, path, text, source.columns, "," if kind == ".csv" else "\t"))
    return list(_inside(task, parse_json(OWNER, path, text, nested=source.rows is not None), source.rows))


def _parquet(task: str, path: Path) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        return list(parquet.read_table(path).to_pylist())
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise ValueError(f"{OWNER}: expected to read data of task {task!r}, found {path}: {one_line(error)}") from error


def _table(task: str, path: Path, text: str, columns: Sequence[str] | None, delimiter: str) -> Iterator[Row]:
    # In files separated by tabs a quotation mark is only a character.
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines = list(csv.reader(io.StringIO(text), delimiter=delimiter, quoting=quoting))
    names = list(columns) if columns is not None else lines[0] if lines else []
    for number, cells in enumerate(lines[0 if columns is not None else 1 :], start=1 if columns is not None else 2):
        if cells and len(cells) != len(names):
            raise ValueError(
                f"{OWNER}: expected {len(names)} columns ({_listed(names)}) in line {number} of {path} (task {task!r}), "
                f"found {len(cells)}"
            )
        if cells:
            yield dict(zip(names, cells, strict=True))


def _inside(task: str, found: Any, rows: str | None) -> Iterator[Row]:
    """The rows that lie at ``a.b.c`` of nested objects, each with the plain fields of those around it."""
    if rows is None:
        yield from found
        return
    outer: Sequence[Row] = found if isinstance(found, list) else [found]
    for name in rows.split("."):
        outer = [
            {**{key: value for key, value in each.items() if not isinstance(value, list)}, **inner}
            for each in outer
            for inner in _objects(task, each, name)
        ]
    yield from outer


def _objects(task: str, row: Row, name: str) -> list[Row]:
    """The objects in a field of a row. Raises ValueError where it holds something else."""
    found = field_of(task, row, name)
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise ValueError(f"{OWNER}: expected rows of task {task!r} with a list of objects in {name!r}, found something else")
    return found


# ---- the hub ---------------------------------------------------------------------------------------------------------


def _from_hub(task: str, source: Source) -> dict[Split, list[Row]]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{OWNER}: expected the package datasets for data from the hub (task {task!r}), found none: "
            "pip install 'mtl-weighting[finetune]'"
        ) from error
    wanted: Mapping[Split, str] = source.splits or {"train": "train"}
    hub: Any = source.hub
    try:
        return {
            ours: list(datasets.load_dataset(hub, source.config, split=theirs, revision=source.revision))
            for ours, theirs in wanted.items()
        }
    # Whatever goes wrong between here and the hub has a type of its own.
    except Exception as error:
        where = f"{source.hub!r} (config {source.config}, revision {source.revision})"
        raise ValueError(
            f"{OWNER}: expected data of task {task!r} on the hub at {where}, found: {one_line(error)}"
        ) from error
