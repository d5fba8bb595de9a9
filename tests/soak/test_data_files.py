"""Data files that somebody has damaged: each reader gives rows, or says in a line what it cannot read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import damage, mistaken, restore
from figures import Figures

from benchmarks.problems.finetune.options import Source
from benchmarks.problems.finetune.sources import rows_of
from benchmarks.problems.text import userdata

pytestmark = pytest.mark.slow

ROWS = [{"id": number, "text": f'def f{number}(x):\n\treturn "{number}, ü"\n', "kind": "a"} for number in range(30)]
NESTED = {"data": [{"title": "t", "parts": [{"context": "c", "qas": ROWS[:5]}, {"context": "d", "qas": ROWS[5:9]}]}]}


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(delimiter: str) -> bytes:
    text = io.StringIO()
    written = csv.DictWriter(text, ["id", "text", "kind"], delimiter=delimiter)
    written.writeheader()
    written.writerows({**row, "text": row["id"]} if delimiter == "\t" else row for row in ROWS)
    return text.getvalue().encode()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{**row, "more": {"list": [1, None]}} for row in ROWS]), sink)
    return sink.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "rows.jsonl": lambda: lines(ROWS),
    "rows.json": lambda: json.dumps(ROWS).encode(),
    "rows.json.gz": lambda: gzip.compress(json.dumps(ROWS).encode(), mtime=0),
    "rows.jsonl.gz": lambda: gzip.compress(lines(ROWS), mtime=0),
    "rows.csv": lambda: table(","),
    "rows.tsv": lambda: table("\t"),
    "rows.parquet": parquet,
    "nested.json": lambda: json.dumps(NESTED).encode(),
}


def code_lm(path: Path) -> int:
    found = userdata.pieces("mine", path, None)
    return sum(len(piece.read() or "") for piece in found)


def finetune_lm(path: Path) -> int:
    nested = "data.parts.qas" if path.name.startswith("nested") else None
    source = Source(text="text", rows=nested, where={"kind": "a*"})
    return sum(len(rows) for rows in rows_of("mine", str(path), source).values())


READERS: dict[str, tuple[Callable[[Path], int], str]] = {
    **{f"code_lm, {name}": (code_lm, name) for name in FILES if ".json" in name and name.startswith("rows")},
    **{f"finetune_lm, {name}": (finetune_lm, name) for name in FILES},
}


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_data_file_is_read_or_told_in_a_line(
    reader: str, tmp_path: Path, figures: Figures, request: pytest.FixtureRequest
) -> None:
    read, name = READERS[reader]
    path, whole = tmp_path / name, FILES[name]()
    path.write_bytes(whole)
    assert read(path) > 0
    more = (mistaken, mistaken) if name.endswith("n.json") or name == "rows.json" else ()
    wrong: list[tuple[int, str]] = []
    told = 0
    times = max(15, request.config.getoption("faults") // 10)
    for seed in range(times):
        damage(path, random.Random(seed), more)
        try:
            read(path)
        except ValueError as error:
            told += 1
            if type(error) is not ValueError or "\n" in str(error) or not str(error).startswith(reader.partition(",")[0]):
                wrong.append((seed, repr(error)[:300]))
        except Exception as error:  # noqa: BLE001 - which is what must not happen, whatever it is
            wrong.append((seed, repr(error)[:300]))
        restore(path, whole)
    assert wrong == []
    assert told > 0
    figures.add(
        "Data files", {"reader and file": reader, "damaged": times, "told in a line": told, "other ends": len(wrong)}
    )
