"""Packed runs: nothing is lost on the way there and back, everybody reads both forms, and nothing stops half-way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import train
from fake_runs import make, suite, toy, trajectories, write_suite
from suites import suite_file
from timed_runs import made_older
from written_records import change

import benchmarks
from benchmarks.analysis import loading
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.cli import main as command_line
from benchmarks.contract import Training
from benchmarks.errors import StorageError, UserError
from benchmarks.planning.status import plan_status
from benchmarks.records import packed, packing
from benchmarks.records.locks import lock_of
from benchmarks.records.migrate import migrate
from benchmarks.records.packed import LINES_FILE, ROWS_FILE, Packed
from benchmarks.records.packing import pack_runs, unpack_runs
from benchmarks.records.reading import Unusable, has_records, read_all, read_one
from benchmarks.records.schema import COLUMNS, Run, Timing
from benchmarks.records.storage import (
    TRAJECTORY_FILE,
    DamagedRecordError,
    checksum_line,
    read_run,
    run_folder,
    run_folders,
    write_run,
)
from benchmarks.records.tracking import track
from benchmarks.report.suite_report import write_report


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


def contents(folder: Path) -> dict[str, bytes]:
    """Path below ``runs`` -> bytes."""
    runs = folder / "runs"
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in sorted(runs.rglob("*")) if path.is_file()}


def all_runs(folder: Path) -> dict[str, Run]:
    found = {}
    for run in read_all(folder):
        assert isinstance(run, Run), run
        found[run.record.key] = run
    return found


def assert_same(some: dict[str, Run], others: dict[str, Run]) -> None:
    assert some.keys() == others.keys()
    for key, run in some.items():
        assert run.record == others[key].record
        pd.testing.assert_frame_equal(run.trajectory, others[key].trajectory, check_exact=True)
        for name in run.trajectory.columns.drop("task"):
            assert run.trajectory[name].to_numpy().tobytes() == others[key].trajectory[name].to_numpy().tobytes()


def without_locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "unfinished")


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


# ---- everybody reads both --------------------------------------------------------------------------------------------


def status(folder: Path) -> Any:
    specs = [run.record.run for run in all_runs(folder).values()]
    return plan_status(folder, [spec for spec in specs if spec.problem.name == "famo_toy"])


def tracked(folder: Path) -> int:
    done = track("tensorboard", folder, list(all_runs(folder)))
    shutil.rmtree(folder / "tracking")
    return done


def frame(folder: Path) -> Any:
    return benchmarks.load(folder).drop(columns="folder").astype(str).to_dict("records")


def loaded(folder: Path) -> list[tuple[str, str]]:
    found = loading.load(folder)
    assert not found.unusable
    return [(run.record.model_dump_json(), run.trajectory.to_json()) for run in found.runs]


def migrated(folder: Path) -> tuple[int, int, list[str]]:
    found = migrate(folder.parent)
    return found.rewritten, found.already, found.left


def report(folder: Path) -> dict[str, bytes]:
    made = write_report(suite_tables(folder), folder.parent / "plots")
    return {path.name: path.read_bytes() for path in made.paths}


READERS: dict[str, Callable[[Path], Any]] = {
    "benchmarks.load": frame,
    "benchmarks.load_trajectories": lambda folder: benchmarks.load_trajectories(folder).to_json(),
    "report": report,
    "check, compare and reproduce": loaded,
    "the plan": status,
    "trackers": tracked,
    "migrate": migrated,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same suite as folders, packed, and half of each."""
    runs = suite(seeds=(0, 1), languages=2, methods=("uniform", "famo"))
    made = []
    for form, first in (("folders", []), ("packed", runs), ("mixed", runs[::2])):
        folder = tmp_path_factory.mktemp(form) / "fake"
        if first:
            pack_runs(write_suite(folder, first))
        made.append(write_suite(folder, [run for run in runs if run not in first]))
    assert [len(list(run_folders(folder))) for folder in made] == [len(runs), 0, len(runs) // 2]
    return made


@pytest.mark.parametrize("name", READERS)
def test_both_forms_read_the_same(name: str, folders: list[Path]) -> None:
    plain, *others = (READERS[name](folder) for folder in folders)
    assert plain
    for other in others:
        assert other == plain


def test_a_folder_wins_over_what_is_packed(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "fake", [make("uniform", 0), make("uniform", 1)])
    key = make("uniform", 0).record.key
    pack_runs(folder)
    timing = Timing(
        started="2026-01-02T00:00:00Z", ended="2026-01-02T00:01:00Z", seconds_per_step=1.0, disturbed=False, machine={}
    )
    known = read_one(folder, key)
    newer = known.record.model_copy(update={"timings": (timing,)})
    write_run(folder / "runs", newer, known.trajectory)
    for _ in range(2):
        assert read_one(folder, key).record.timings == (timing,)
        assert len(all_runs(folder)) == len(benchmarks.load(folder)) == 2
        assert all_runs(folder)[key].record.timings == (timing,)
        pack_runs(folder)
    assert not list(run_folders(folder))
    unpack_runs(folder)
    found = read_run(run_folder(folder, key)).record
    assert found == newer.model_copy(update={"trajectory_sha256": found.trajectory_sha256})


def test_a_packed_suite_is_trained_no_further_and_failures_are_trained_again(tmp_path: Path) -> None:
    path = suite_file(tmp_path, seeds=[0, 1], weighters=["uniform", "dwa"])
    assert train(path) == 0
    folder = tmp_path / "out" / "mine"
    made_older(path, pd.Timedelta(hours=1).to_pytimedelta())
    before = all_runs(folder)
    failed = next(run for run in before.values() if run.label == "dwa" and run.seed == 1)
    crashed = failed.record.model_copy(update={"state": "crashed", "reason": "no memory", "metrics": {}, "selection": None})
    write_run(folder / "runs", crashed, failed.trajectory)
    assert pack_runs(folder).changed == len(before)
    assert train(path) == 0
    after = all_runs(folder)
    trained = {place.name for place in run_folders(folder)}
    # The failed one again, and the uniform run of its seed as its pair, whose numbers stay.
    pair = next(
        run for run in before.values() if run.label == "uniform" and run.seed == 1 and run.record.run.role == "method"
    )
    assert trained == {failed.record.key, pair.record.key}
    assert after[failed.record.key].record.state == "finished"
    assert after[failed.record.key].record.metrics == failed.record.metrics
    assert len(after[pair.record.key].record.timings) == 1
    assert after[pair.record.key].trajectory.equals(pair.trajectory)
    assert train(path) == 0
    pack_runs(folder)
    assert_same(all_runs(folder), after)
    assert train(path) == 0
    assert not list(run_folders(folder))


def test_damaged_packed_runs_are_trained_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = suite_file(tmp_path)
    folder = tmp_path / "out" / "mine"
    assert train(path) == 0
    runs = all_runs(folder)
    pack_runs(folder)
    lines = (folder / LINES_FILE).read_bytes().splitlines(keepends=True)
    lost = sorted(runs)[1]
    (folder / LINES_FILE).write_bytes(b"".join([lines[0], lines[1].replace(b'"finished"', b'"finishes"'), *lines[2:]]))
    damaged = (folder / LINES_FILE).read_bytes()
    capfd.readouterr()
    assert train(path) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: trained again: ") and lost in line
    assert [place.name for place in run_folders(folder)] == [lost]
    assert train(path) == 0
    assert capfd.readouterr().err == ""
    assert all_runs(folder).keys() == runs.keys()
    told = pack_runs(folder)
    assert (told.changed, told.left) == (1, [])
    assert all_runs(folder).keys() == runs.keys()
    # Of what is lost for good a copy is kept.
    (folder / LINES_FILE).write_bytes(damaged)
    write_suite(folder, [make("uniform")])
    told = pack_runs(folder)
    assert [lost in line for line in told.left] == [True, False]
    (aside,) = (folder / "set_aside").iterdir()
    assert (aside / LINES_FILE).read_bytes() == damaged
    assert lost in (aside / "reason.txt").read_text()
    assert all_runs(folder).keys() == {*runs, make("uniform").record.key} - {lost}


# ---- stopped, at once, full ------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Nothing that was to come happens any more, clean-up included."""


class Killing:
    """Kills at the n-th change of the file system, as seen by Python's audit events."""

    CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")

    def __init__(self) -> None:
        self.left = 0
        self.folder = Path("nowhere")
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wxa"
        if self.left and (writes or event in self.CHANGES) and str(self.folder) in str(arguments[0]):
            self.left -= self.left > 1
            if self.left == 1:
                raise KilledError

    @contextlib.contextmanager
    def at(self, number: int, folder: Path) -> Iterator[None]:
        self.left, self.folder = number + 1, folder
        try:
            yield
        finally:
            self.left = 0


@pytest.fixture(scope="module")
def killing() -> Killing:
    return Killing()


@pytest.mark.parametrize("into", ["pack", "pack more", "unpack"])
def test_killed_at_any_moment_nothing_is_lost(into: str, tmp_path: Path, killing: Killing) -> None:
    runs = [make("uniform", 0), make("uniform", 1), toy("famo")]
    start = write_suite(tmp_path / "start" / "fake", runs[:2] if into == "pack more" else runs)
    if into != "pack":
        pack_runs(start)
    if into == "pack more":
        # One that is new, and one that was recorded anew.
        write_suite(start, [runs[2], Run(runs[0].record.model_copy(update={"resumed": 1}), runs[0].trajectory)])
    carry_out = unpack_runs if into == "unpack" else pack_runs
    expected = all_runs(start)
    stops = 0
    while True:
        folder = tmp_path / str(stops) / "fake"
        shutil.copytree(start, folder)
        try:
            with killing.at(stops + 1, folder):
                carry_out(folder)
            break
        except KilledError:
            stops += 1
        assert_same(all_runs(folder), expected)
        carry_out(folder)
        assert_same(all_runs(folder), expected)
        assert len(list(run_folders(folder))) == (len(runs) if into == "unpack" else 0)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        shutil.rmtree(folder)
    assert stops > 15


@pytest.mark.parametrize("carry_out", [pack_runs, unpack_runs])
def test_a_full_disk_is_one_line_and_changes_nothing(
    carry_out: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_suite(tmp_path / "fake", [make("uniform", 0), make("uniform", 1)])
    if carry_out is unpack_runs:
        pack_runs(folder)
    expected, before = all_runs(folder), without_locks(folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"^cannot write .*fake: No space left on device$"):
        carry_out(folder)
    assert without_locks(folder) == before
    assert_same(all_runs(folder), expected)


def test_two_commands_at_once_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_suite(tmp_path / "fake", [make("uniform")])
    with lock_of(folder, packing.LOCK):
        for command in ("pack", "unpack"):
            assert command_line.main([command, str(tmp_path)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line == f"error: {folder}: expected no other command that packs or unpacks it, found one"
    assert command_line.main(["pack", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "1 runs packed\n"
    assert command_line.main(["unpack", str(folder)]) == 0
    assert command_line.main(["pack", str(tmp_path / "nowhere")]) == 2


def test_what_somebody_trains_stays_as_it_is(tmp_path: Path) -> None:
    held, free = make("uniform", 0), make("uniform", 1)
    folder = write_suite(tmp_path / "fake", [held, free])
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "0123.pt").write_bytes(b"half")
    with lock_of(folder, held.record.key):
        told = pack_runs(folder)
        assert (told.changed, told.left) == (1, [f"{run_folder(folder, held.record.key)}: somebody trains it"])
        assert [place.name for place in run_folders(folder)] == [held.record.key]
    assert pack_runs(folder).changed == 1
    with lock_of(folder, held.record.key):
        told = unpack_runs(folder)
        assert (told.changed, len(told.left)) == (1, 1)
        assert (folder / LINES_FILE).exists()
        assert len(all_runs(folder)) == 2
    assert (unpack_runs(folder).changed, without_locks(folder)) == (1, ["runs"])
    assert (folder / "unfinished" / "0123.pt").read_bytes() == b"half"


def test_a_record_that_changes_while_it_is_packed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes the run and records it anew between its packing and the removal of its folder."""
    run = make("uniform")
    folder = write_suite(tmp_path / "fake", [run])
    newer = run.record.model_copy(update={"resumed": 3})
    remove = packing._remove

    def after_another(place: Path, content: bytes) -> None:
        write_run(folder / "runs", newer, run.trajectory)
        remove(place, content)

    monkeypatch.setattr(packing, "_remove", after_another)
    pack_runs(folder)
    assert read_one(folder, run.record.key).record.resumed == 3
    unpack_runs(folder)
    assert read_one(folder, run.record.key).record.resumed == 3


@pytest.mark.parametrize("carry_out", [pack_runs, unpack_runs])
def test_readers_go_on_while_runs_change_their_form(
    carry_out: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the moments at which a reader has looked and not yet read."""
    start = write_suite(tmp_path / "start", [make("uniform", seed) for seed in (0, 1)])
    if carry_out is unpack_runs:
        pack_runs(start)
    expected = all_runs(start)
    moments = [
        ("benchmarks.records.reading.run_folders", run_folders, False),
        ("benchmarks.records.reading.run_folders", run_folders, True),
        ("benchmarks.records.reading.Packed", Packed, False),
    ]
    for number in range(4):
        for name, original, before in moments:
            folder = tmp_path / f"{number} {name} {before}"
            shutil.copytree(start, folder)
            looks = iter(range(100))

            def look(
                place: Path,
                original: Any = original,
                looks: Iterator[int] = looks,
                stop: tuple[int, bool] = (number, before),
            ) -> Any:
                now = next(looks)
                if (now, True) == stop:
                    carry_out(place)
                found = original(place)
                found = list(found) if original is run_folders else found
                if (now, False) == stop:
                    carry_out(place)
                return found

            with monkeypatch.context() as patch:
                patch.setattr(name, look)
                found = read_all(folder)
                first = next(found)
                if number == 3:
                    carry_out(folder)
                rest = list(found)
            assert_same({run.record.key: run for run in (first, *rest) if isinstance(run, Run)}, expected)
            assert_same({key: read_one(folder, key) for key in expected}, expected)


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
    lines = (folder / LINES_FILE).read_bytes()
    conflict = b"<<<<<<< ours\n" + lines + b"=======\n" + lines.splitlines(keepends=True)[0] + b">>>>>>> theirs\n"
    (folder / LINES_FILE).write_bytes(conflict)
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
    assert packed.LINES_FILE == "runs.jsonl"
