"""Text from folders and JSON-lines files that the user names, split like the built-in languages."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.problems.text.documents import FILE_CAP, Piece, blocks, clean, read_text, split_of
from benchmarks.problems.text.sources import files

FIELDS: tuple[tuple[str, ...], ...] = (("text",), ("content",), ("code",), ("prompt", "canonical_solution"))
"""Where the text of a JSON row is looked for, in this order; the fields of a group are joined."""
FEW = 20
"""Fewer files or rows than this are too few to split by hash: their text is cut into blocks instead."""
ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


def pieces(task: str, place: str | Path, text_fields: Sequence[str] | None) -> list[Piece]:
    """The documents of a task. Raises ValueError of one line where there is nothing to read."""
    path = Path(place).expanduser()
    if path.is_dir():
        documents = list(folder_texts(path))
    elif path.is_file() and path.name.endswith(ENDINGS):
        documents = list(_rows(task, path, text_fields))
    else:
        raise ValueError(
            f"code_lm: expected data of task {task!r} to be a folder or a file named *{', *'.join(ENDINGS)}, found {place!s}"
        )
    if not documents:
        raise ValueError(f"code_lm: expected text for task {task!r}, found none in {place!s}")
    if len(documents) < FEW:
        return list(blocks(task, "".join(text if text.endswith("\n") else text + "\n" for _, text in documents)))
    found = list[Piece]()
    for key, text in documents:
        if len(text) > FILE_CAP:
            found += blocks(key, text)
        else:
            found.append(Piece(key, split_of(key), partial(str, text)))
    return found


def folder_texts(root: Path) -> Iterator[tuple[str, str]]:
    """The path below a folder and the text of each file that is UTF-8 and not hidden, in the order of the paths."""
    for key, path in sorted(files(root, ("",))):
        text = None if any(part.startswith(".") for part in key.split("/")) else read_text(path)
        if text is not None:
            yield key, text


def _rows(task: str, path: Path, text_fields: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    rows: list[dict[str, Any]] = parse_json("code_lm", path, read_unpacked("code_lm", task, path))
    groups = [tuple(text_fields)] if text_fields else list(FIELDS)
    fields = next((group for group in groups if any(set(group) <= set(row) for row in rows)), None)
    if rows and fields is None:
        wanted = " or ".join("+".join(group) for group in groups)
        raise ValueError(f"code_lm: expected rows with {wanted} in {path}, found fields {', '.join(sorted(rows[0]))}")
    for number, row in enumerate(rows):
        parts = [row.get(field) for field in fields or ()]
        if all(isinstance(part, str) for part in parts):
            # Ids like MBCPP/7 and MBJP/7 are one exercise in two languages: it must be in one split in both.
            identity = row.get("task_id", row.get("id", number))
            yield str(identity).rsplit("/", 1)[-1], "".join(map(str, parts)).replace("\r\n", "\n")


def read_unpacked(owner: str, task: str, path: Path) -> str:
    """The cleaned text of a file, unpacked where its name ends in .gz; empty where it is no UTF-8. Raises ValueError."""
    try:
        raw = path.read_bytes()
        return clean(gzip.decompress(raw) if path.suffix == ".gz" else raw) or ""
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{owner}: expected to read data of task {task!r}, found {path}: {error}") from error


def parse_json(owner: str, path: Path, text: str, *, nested: bool = False) -> Any:
    """The objects of a JSON list or of lines of JSON; nested: whatever one JSON value the text is. Raises ValueError."""
    number = 1
    try:
        if nested:
            return json.loads(text)
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = []
            for number, line in enumerate(text.split("\n"), start=1):  # noqa: B007, RUF100
                if line.strip():
                    rows.append(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{owner}: expected JSON in line {number} of {path}, found {error}") from error
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{owner}: expected JSON objects in {path}, found {type(row).__name__}")
    return list(rows)
