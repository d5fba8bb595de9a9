"""Packed runs: nothing is lost on the way there and back, and what is missing or damaged is told."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import make, suite, toy, trajectories, write_suite
from packed_runs import all_runs, assert_same, contents, without_locks
from written_records import change

from benchmarks.contract import Training
from benchmarks.errors import UserError
from benchmarks.records import packing
from benchmarks.records.packed import LARGEST_PART, LINES_FILE, PART, PLAIN_LINES_FILE, ROWS_FILE, Packed, part_of, parts_in
from benchmarks.records.packing import pack_runs, unpack_runs
from benchmarks.records.reading import Unusable, has_records, read_all, read_one
from benchmarks.records.schema import COLUMNS, Run
from benchmarks.records.storage import (
    TRAJECTORY_FILE,
    DamagedRecordError,
    checksum_line,
    run_folder,
    run_folders,
)


def odd_numbers() -> pd.DataFrame:
    """Numbers that are easily lost: both zeros, both infinities, the smallest ones, NaN, and columns of NaN alone."""
    frame = trajectories("uniform", ("left", "right"), Training(steps=400, log_every=10), np.random.default_rng(0))
    odd = [0.0, -0.0, np.inf, -np.inf, 5e-324, 1e-300, np.nan, 0.1 + 0.2]
    frame.loc[: len(odd) - 1, "weight"] = odd
    return frame.assign(val_loss=np.nan, count=np.nan)


def all_kinds() -> list[Run]:
    """Runs of all states and of several forms of trajectories."""
    numbers_inside = make("coba", 5).trajectory.assign(count=3.0)
    numbers_inside["method.ratio"] = numbers_inside["weight"]
    numbers_inside["method.share"] = np.nan
    return [
        *suite(seeds=(0,), languages=2, methods=("uniform", "gradnorm")),
        toy("famo"),
        make("coba", 5, trajectory=numbers_inside),
        make("uniform", 6, trajectory=odd_numbers()),
        make("uniform", 7, tasks=("größe \N{GREEK SMALL LETTER BETA}", "{[", "]}\t\n"), reason='a "quoted"\ttab\n{'),
        make("uniform", 8, state="crashed", reason="no memory", trajectory=pd.DataFrame(columns=list(COLUMNS))),
    ]


# ---- there and back --------------------------------------------------------------------------------------------------


def test_files_are_the_same_after_packing_and_unpacking(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "fake", all_kinds())
    before, runs = contents(folder), all_runs(folder)
    assert len(before) == 2 * len(runs)

    assert (pack_runs(tmp_path).changed, contents(folder)) == (len(runs), {})
    assert without_locks(folder) == ["runs", LINES_FILE, ROWS_FILE]
    assert_same(all_runs(folder), runs)

    assert unpack_runs(tmp_path).changed == len(runs)
    assert without_locks(folder) == ["runs"]
    assert contents(folder) == before


def test_rows_that_another_version_wrote_are_the_same_numbers(tmp_path: Path) -> None:
    """Its bytes cannot be had again: the record says the checksum of the new file, and nothing else of it changes."""
    folder = write_suite(tmp_path / "fake", [make("uniform"), toy("famo")])
    for place in run_folders(folder):
        pd.read_parquet(place / TRAJECTORY_FILE).to_parquet(place / TRAJECTORY_FILE, compression="gzip")
        change(place, trajectory_sha256=hashlib.sha256((place / TRAJECTORY_FILE).read_bytes()).hexdigest())
    before, runs = contents(folder), all_runs(folder)
    pack_runs(folder)
    assert_same(all_runs(folder), runs)
    unpack_runs(folder)
    after = all_runs(folder)
    for key, run in after.items():
        assert run.record.trajectory_sha256 != runs[key].record.trajectory_sha256
        record = run.record.model_copy(update={"trajectory_sha256": runs[key].record.trajectory_sha256})
        after[key] = Run(record, run.trajectory)
        name = f"{key}/run.json"
        assert len(contents(folder)[name]) == len(before[name])
    assert_same(after, runs)


def test_a_run_that_cannot_be_had_again_stays_a_folder(tmp_path: Path) -> None:
    one, other = make("uniform"), make("coba")
    swapped = toy("uniform").trajectory[["step", "replica", "task", "probe.b", "probe.a", *COLUMNS[3:-1]]]
    narrow = make("famo", trajectory=make("famo").trajectory.astype({"weight": "float32"}))
    turned = make("uniform", 9, tasks=("f1", "f2"), trajectory=swapped)
    folder = write_suite(tmp_path / "fake", [one, other, narrow, toy("uniform"), turned])
    place = run_folder(folder, other.record.key)
    rest = (place / "run.json").read_bytes().partition(b"\n")[2].replace(b'\n "run"', b'\n  "run"')
    (place / "run.json").write_bytes(checksum_line(rest) + b"\n" + rest)
    told = pack_runs(folder)
    assert told.changed == 2
    left = {place.name for place in run_folders(folder)}
    assert left == {other.record.key, narrow.record.key, turned.record.key}
    assert Packed(folder).known == {one.record.key, toy("uniform").record.key}
    assert len(told.left) == 3
    assert any("expected float64 in column weight, found float32" in line for line in told.left)
    assert any("expected columns in the order" in line for line in told.left)
    assert any("expected run.json as it is written here" in line for line in told.left)
    assert unpack_runs(folder).changed == 2


# ---- what is missing -------------------------------------------------------------------------------------------------


def test_nothing_recorded_is_nothing(tmp_path: Path) -> None:
    assert list(read_all(tmp_path)) == []
    assert not has_records(tmp_path)
    with pytest.raises(DamagedRecordError, match="No such file"):
        read_one(tmp_path, "0" * 16)
    with pytest.raises(UserError, match=f"expected records below {tmp_path}, found none"):
        pack_runs(tmp_path)


@pytest.mark.parametrize("name", [LINES_FILE, ROWS_FILE])
@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["removed", "emptied"])
def test_half_of_a_packed_suite_is_told_for_every_run(name: str, how: Callable[[Path], object], tmp_path: Path) -> None:
    runs = [make("uniform", 0), make("uniform", 1)]
    folder = write_suite(tmp_path / "fake", runs)
    pack_runs(folder)
    how(folder / name)
    found = list(read_all(folder))
    assert {each.key for each in found if isinstance(each, Unusable)} == {run.record.key for run in runs}
    told = unpack_runs(folder)
    assert (told.changed, len(told.left)) == (0, 2)
    # Once trained again, they are folders, and these win.
    write_suite(folder, runs)
    assert len(all_runs(folder)) == 2
    assert pack_runs(folder).left == []
    assert len(all_runs(folder)) == 2


def test_lines_that_say_nothing_are_told(tmp_path: Path) -> None:
    runs = [make("uniform", 0), make("uniform", 1)]
    folder = write_suite(tmp_path / "fake", runs)
    pack_runs(folder)
    lines = gunzip(folder)
    conflict = b"<<<<<<< ours\n" + lines + b"=======\n" + lines.splitlines(keepends=True)[0] + b">>>>>>> theirs\n"
    (folder / PLAIN_LINES_FILE).write_bytes(conflict)
    found = list(read_all(folder))
    assert len([each for each in found if isinstance(each, Run)]) == 2
    wrong = [each.reason for each in found if isinstance(each, Unusable)]
    assert [f"line {number}: cannot be read" in reason for number, reason in zip((1, 4, 5, 6), wrong, strict=True)] == [
        True
    ] * 4
    # Who asks for runs that are all there need not know.
    assert len(list(read_all(folder, {run.record.key for run in runs}))) == 2


def test_a_reader_of_tables_finds_the_runs(tmp_path: Path) -> None:
    runs = all_kinds()
    folder = write_suite(tmp_path / "fake", runs)
    pack_runs(folder)
    lines = pd.read_json(folder / LINES_FILE, lines=True)
    assert sorted(lines["key"]) == sorted(run.record.key for run in runs)
    rows = pd.read_parquet(folder / ROWS_FILE)
    assert len(rows) == sum(len(run.trajectory) for run in runs)
    assert LINES_FILE == "runs.jsonl.gz"


def gunzip(folder: Path) -> bytes:
    """As the command of this name; the lines."""
    lines = gzip.decompress((folder / LINES_FILE).read_bytes())
    (folder / PLAIN_LINES_FILE).write_bytes(lines)
    (folder / LINES_FILE).unlink()
    return lines


def test_lines_of_earlier_versions_are_read_and_packed_anew(tmp_path: Path) -> None:
    runs = [make("uniform", seed) for seed in range(3)]
    folder = write_suite(tmp_path / "fake", runs)
    pack_runs(folder)
    expected = all_runs(folder)
    gunzip(folder)
    assert without_locks(folder) == ["runs", PLAIN_LINES_FILE, ROWS_FILE]
    assert_same(all_runs(folder), expected)
    assert (pack_runs(folder).changed, without_locks(folder)) == (0, ["runs", LINES_FILE, ROWS_FILE])
    assert_same(all_runs(folder), expected)
    gunzip(folder)
    assert (unpack_runs(folder).changed, without_locks(folder)) == (3, ["runs"])


def test_a_run_from_before_counts_is_packed_once_it_is_written_again(tmp_path: Path) -> None:
    run = make("uniform")
    older = run.trajectory.drop(columns="count", errors="ignore").assign(**{"probe.a": 1.0})
    folder = write_suite(tmp_path / "fake", [Run(run.record, older)])
    read = read_one(folder, run.record.key)
    assert list(read.trajectory.columns) == [*COLUMNS, "probe.a"]
    write_suite(folder, [read])
    assert (pack_runs(folder).changed, pack_runs(folder).left) == (1, [])
    assert all_runs(folder)[run.record.key].trajectory.equals(read.trajectory)


def test_lines_of_an_earlier_version_beside_todays_are_read_too(tmp_path: Path) -> None:
    """And where both have a run, and not the same, it is told and nothing of either is thrown away."""
    runs = [make("uniform", seed) for seed in range(3)]
    folder = write_suite(tmp_path / "fake", runs)
    pack_runs(folder)
    expected = all_runs(folder)
    first, *others = gunzip(folder).splitlines()
    (folder / LINES_FILE).write_bytes(part_of([first]))
    assert_same(all_runs(folder), expected)
    (folder / PLAIN_LINES_FILE).write_bytes(b"\n".join([first.replace(b'"finished"', b'"finishes"'), *others, b""]))
    read = list(read_all(folder))
    (told,) = (each.reason for each in read if isinstance(each, Unusable))
    assert told.endswith(f"expected the line that is in {LINES_FILE}, found another")
    assert_same({run.record.key: run for run in read if isinstance(run, Run)}, expected)
    assert len(pack_runs(folder).left) == 2
    (aside,) = (folder / "set_aside").iterdir()
    assert {LINES_FILE, PLAIN_LINES_FILE, ROWS_FILE} <= {path.name for path in aside.iterdir()}
    assert without_locks(folder) == ["runs", LINES_FILE, "set_aside", ROWS_FILE]
    assert_same(all_runs(folder), expected)


def test_what_is_damaged_costs_the_runs_that_lie_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "RUNS_TOGETHER", 2)
    folder = write_suite(tmp_path / "fake", [make("uniform", seed) for seed in range(5)])
    pack_runs(folder)
    whole = (folder / LINES_FILE).read_bytes()
    keys = sorted(Packed(folder).lines)
    starts = [match.start() for match in re.finditer(re.escape(PART), whole)]
    assert len(starts) == 3
    for start, lost in zip(starts, (keys[:2], keys[2:4], keys[4:]), strict=True):
        for place in (start, start + 40):
            (folder / LINES_FILE).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            assert sorted(Packed(folder).lines) == [key for key in keys if key not in lost]
            assert {each.key for each in read_all(folder) if isinstance(each, Unusable)} >= set(lost)
    (folder / LINES_FILE).write_bytes(whole[:-5])
    assert sorted(Packed(folder).lines) == keys[:4]


def test_a_part_that_unpacks_to_far_too_much_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(LARGEST_PART + 1), mtime=0)
    assert list(parts_in(bomb + gzip.compress(b"line\n", mtime=0))) == [None, b"line\n"]
