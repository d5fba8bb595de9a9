"""Runs as folders, packed, and half of each: everybody reads the same, and what is missing is trained again."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import train
from fake_runs import make, suite, write_suite
from packed_runs import all_runs, assert_same
from suites import suite_file
from timed_runs import made_older

import benchmarks
from benchmarks.analysis import loading
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.planning.status import plan_status
from benchmarks.records.migrate import migrate
from benchmarks.records.packed import LINES_FILE, part_of
from benchmarks.records.packing import pack_runs, unpack_runs
from benchmarks.records.reading import read_one
from benchmarks.records.schema import Timing
from benchmarks.records.storage import (
    read_run,
    run_folder,
    run_folders,
    write_run,
)
from benchmarks.records.tracking import track
from benchmarks.report.suite_report import write_report

pytestmark = pytest.mark.slow


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
    lines = gzip.decompress((folder / LINES_FILE).read_bytes()).splitlines()
    lost = sorted(runs)[1]
    damaged = part_of([lines[0], lines[1].replace(b'"finished"', b'"finishes"'), *lines[2:]])
    (folder / LINES_FILE).write_bytes(damaged)
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
