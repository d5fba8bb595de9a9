"""Files that are not as they were written: whoever reads them notices and says so in a line, and nobody ends in a traceback.

``pytest tests/records/test_damage.py --faults 10000`` damages records so often; each fault has a seed of its own.
"""

from __future__ import annotations

import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from commands_at_work import in_process, jobs_of
from faults import DAMAGES, damage, mistaken, restore
from places import REFERENCE, ROOT
from suites import suite_file

from benchmarks.analysis import loading
from benchmarks.cli import main as command_line
from benchmarks.errors import UserError
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.worker import Job, recorded_meanwhile
from benchmarks.papers import published as published
from benchmarks.planning.status import plan_status
from benchmarks.planning.suite import read_suite
from benchmarks.records import frames, packing
from benchmarks.records.migrate import migrate
from benchmarks.records.packed import LINES_FILE, ROWS_FILE
from benchmarks.records.packing import pack_runs
from benchmarks.records.reading import Unusable, read_all
from benchmarks.records.schema import Run
from benchmarks.records.storage import RUN_FILE, TRAJECTORY_FILE, run_folder, run_folders
from benchmarks.regression import baseline, golden_weights, history, picture

pytestmark = pytest.mark.slow

FILES = (RUN_FILE, TRAJECTORY_FILE)


# ---- records ---------------------------------------------------------------------------------------------------------


def one_line(text: str) -> bool:
    return bool(text) and "\n" not in text


Used = tuple[set[str], list[str]]
"""Keys of the runs that a reader uses, and what it tells of the others."""


def stock(jobs: Sequence[Job]) -> Used:
    found = plan_status(jobs[0].folder, [job.spec for job in jobs])
    assert found.damaged.keys() <= found.to_do.keys()
    return {each.spec.key for each in found.recorded}, list(found.damaged.values())


def worker(jobs: Sequence[Job]) -> Used:
    used = {job.spec.key for job in jobs if recorded_meanwhile(job) is not None}
    return used, ["trained again" for _ in jobs]


def report(jobs: Sequence[Job]) -> Used:
    found = loading.load(jobs[0].folder)
    return {run.record.key for run in found.runs}, [each.reason for each in found.unusable]


def compare_and_check(jobs: Sequence[Job]) -> Used:
    try:
        found = baseline.read(jobs[0].folder)
    except UserError as error:
        return set(), [str(error)] * len(jobs)
    return {run.record.key for run in found.runs}, list(found.notes)


def by_key(jobs: Sequence[Job]) -> Used:
    """Who reads the runs of a plan: reproductions, tuned and frozen runs, trackers."""
    found = list(read_all(jobs[0].folder, {job.spec.key for job in jobs}))
    used = {each.record.key for each in found if isinstance(each, Run)}
    return used, [each.reason for each in found if isinstance(each, Unusable)]


def frame(read: Callable[[Path], pd.DataFrame], jobs: Sequence[Job]) -> Used:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read(jobs[0].folder)
    return set(found["key"]), [str(warning.message) for warning in caught]


def migration(jobs: Sequence[Job]) -> Used:
    found = migrate(jobs[0].folder)
    assert found.rewritten == 0
    # It does not say which are of today's form.
    used, _ = by_key(jobs)
    assert found.already == len(used)
    return used, found.left


READERS: dict[str, Callable[[Sequence[Job]], Used]] = {
    "the stock": stock,
    "a worker": worker,
    "report": report,
    "compare and check": compare_and_check,
    "reproduce, tuned and frozen runs, trackers": by_key,
    "benchmarks.load": partial(frame, frames.load),
    "benchmarks.load_trajectories": partial(frame, frames.load_trajectories),
    "migrate": migration,
}
"""Who reads runs."""


def wrongs(jobs: Sequence[Job], whole: set[str]) -> list[tuple[str, str]]:
    """Readers that use other runs than those that are whole, or are silent on one, or raise, each with what they did."""
    found = []
    for reader, read in READERS.items():
        try:
            used, told = read(jobs)
            if used != whole or len(told) < len(jobs) - len(whole) or not all(map(one_line, told)):
                found.append((reader, f"used {len(used)}, told {told}"))
        except Exception as error:  # noqa: BLE001 - which is what must not happen, whatever it is
            found.append((reader, repr(error)))
    return found


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Job]:
    suite = suite_file(tmp_path, training={"steps": 60, "log_every": 2})
    jobs = jobs_of(suite, "uniform", "random")
    for job in jobs:
        assert in_process(job).state == "finished"
    return jobs


def test_every_fault_in_a_record_is_noticed_by_everybody(two_runs: list[Job], request: pytest.FixtureRequest) -> None:
    damaged, other = (job.spec.key for job in two_runs)
    place = run_folder(two_runs[0].folder, damaged)
    whole = {name: (place / name).read_bytes() for name in FILES}
    found: list[tuple[int, str, str]] = []
    for seed in range(request.config.getoption("faults")):
        draw = random.Random(seed)
        name = draw.choice(FILES)
        if damage(place / name, draw):
            found += [(seed, *wrong) for wrong in wrongs(two_runs, {other})]
        restore(place / name, whole[name])
    assert found == []
    assert wrongs(two_runs, {damaged, other}) == []


def test_every_fault_in_packed_runs_is_noticed_by_everybody(
    two_runs: list[Job], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is as it was written, to the last bit; each other run is told of; most faults cost one part of two."""
    monkeypatch.setattr(packing, "RUNS_TOGETHER", 1)
    folder = two_runs[0].folder
    pack_runs(folder)
    files = (LINES_FILE, ROWS_FILE)
    whole = {name: (folder / name).read_bytes() for name in files}
    written = {run.record.key: run for run in read_all(folder) if isinstance(run, Run)}
    assert len(written) == 2
    found: list[tuple[int, str, str]] = []
    lost: Counter[tuple[str, int]] = Counter()
    for seed in range(request.config.getoption("faults")):
        draw = random.Random(seed)
        name = draw.choice(files)
        if damage(folder / name, draw):
            read = {run.record.key: run for run in read_all(folder) if isinstance(run, Run)}
            for key, run in read.items():
                if run.record != written[key].record or not run.trajectory.equals(written[key].trajectory):
                    found.append((seed, name, f"{key}: other numbers"))
            found += [(seed, *wrong) for wrong in wrongs(two_runs, set(read))]
            lost[name, 2 - len(read)] += 1
        restore(folder / name, whole[name])
    assert found == []
    assert wrongs(two_runs, set(written)) == []
    # Only what no number depends on may pass: what was added at the end, and parts of gzip's and Parquet's own notes.
    assert lost[LINES_FILE, 0] + lost[ROWS_FILE, 0] < 0.1 * lost.total()
    assert lost[LINES_FILE, 1] > 0 and lost[ROWS_FILE, 1] > 0


def test_a_flipped_byte_costs_one_part_of_packed_runs(two_runs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is in the lines, and in the rows of a part; only Parquet's table of contents is all runs'."""
    monkeypatch.setattr(packing, "RUNS_TOGETHER", 1)
    folder = two_runs[0].folder
    pack_runs(folder)
    contents = pq.ParquetFile(folder / ROWS_FILE).metadata.serialized_size
    for name in (LINES_FILE, ROWS_FILE):
        whole = (folder / name).read_bytes()
        end = len(whole) - 1 if name == LINES_FILE else len(whole) - contents - 8
        left: Counter[int] = Counter()
        for place in range(4, end, max(1, end // 100)):
            (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            left[len([run for run in read_all(folder) if isinstance(run, Run)])] += 1
        (folder / name).write_bytes(whole)
        # A few bytes before the pages of Parquet say what the pages say too, and gzip's say when it was written.
        assert left[1] > 0.8 * left.total() and left[1] + left[2] == left.total(), (name, left)


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of runs, of which one for each kind of fault and file is damaged, and two are whole."""
    suite = suite_file(tmp_path_factory.mktemp("many"), seeds=list(range(len(DAMAGES) + 1)))
    jobs = jobs_of(suite, "uniform", "random")
    for job in jobs:
        assert in_process(job).state == "finished"
    shutil.copytree(jobs[0].folder, suite.parent / "whole")
    kinds = [(name, damage_file) for name in FILES for damage_file in DAMAGES]
    assert len(jobs) == len(kinds) + 2
    for number, (job, (name, damage_file)) in enumerate(zip(jobs, kinds, strict=False)):
        damage_file(run_folder(job.folder, job.spec.key) / name, random.Random(number))
    return suite


COMMANDS: dict[str, tuple[Callable[[Path], list[str]], int, str, int]] = {
    "the plan": (lambda suite: [str(suite), "--trust", "--weighters", "uniform,random", "--dry-run"], 0, "", 0),
    "report": (
        lambda suite: ["report", str(suite), "--trust", "--weighters", "uniform,random", "--html"],
        0,
        "warning: 18 of 20 planned runs have no record that can be read",
        1,
    ),
    "compare": (lambda suite: ["compare", str(suite.parent / "whole"), str(suite.parent / "out" / "mine")], 0, "", 0),
    "migrate": (lambda suite: ["migrate", str(suite.parent / "out")], 1, "left: ", 18),
}
"""Command -> words, exit code, beginning of its lines on the error output, and how many."""


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_go_on_with_what_can_be_read(name: str, many_runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words, code, line, count = COMMANDS[name]
    places = ["--out", str(many_runs.parent / "out"), "--plots", str(many_runs.parent / "plots")]
    out = [] if name in ("migrate", "compare") else places
    assert command_line.main([*words(many_runs), *out]) == code
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert [text.startswith(line) for text in said.err.splitlines()] == [True] * count
    if name == "the plan":
        assert "20 runs: 2 recorded, 18 to train" in said.out
    if name == "compare":
        assert len(list(run_folders(many_runs.parent / "whole"))) == 20


# ---- other files -----------------------------------------------------------------------------------------------------


def a_suite(path: Path) -> None:
    read_suite(str(path))


def published_numbers(path: Path) -> None:
    published._read(path)


def recorded_weights(path: Path) -> None:
    found = golden_weights.read(path.parent)
    for name, of_settings in found.weights.items():
        for label, weights in of_settings.items():
            golden_weights._verdict(name, label, weights, [[0.5] * 3] * 40)


def checks_before(path: Path) -> None:
    entries, told = history.read(path.parent, "quick")
    assert all(map(one_line, told))
    if entries:
        picture.figure(entries)
    elif told:
        raise UserError(told[0])


OTHERS: dict[str, tuple[Path, Callable[[Path], None], int]] = {
    "suite": (ROOT / "benchmarks" / "suites" / "fair.yaml", a_suite, 300),
    "published numbers": (ROOT / "benchmarks" / "papers" / "numbers" / "famo_toy.yaml", published_numbers, 300),
    "recorded weights": (REFERENCE / "golden_weights.json", recorded_weights, 60),
    "history of checks": (next((ROOT / "results" / "history").glob("*.json")), checks_before, 100),
}
"""File, what reads it, and how often it is damaged by default, as reading some takes long."""


@pytest.mark.parametrize("name", OTHERS)
def test_a_damaged_file_is_read_or_told_in_a_line(name: str, tmp_path: Path) -> None:
    original, read, times = OTHERS[name]
    content, copy = original.read_bytes(), tmp_path / original.name
    # Whether it was told of what is now in the file's place: the same damage twice is read once.
    told: dict[bytes | None, bool] = {}
    found = []
    for seed in range(times):
        copy.write_bytes(content)
        damage(copy, random.Random(seed), (mistaken, mistaken) if copy.suffix == ".json" else ())
        now = copy.read_bytes() if copy.is_file() else None
        if now is None or now not in told:
            told[now] = False
            try:
                read(copy)
            except UserError as error:
                assert one_line(str(error)), seed
                told[now] = True
        found.append(told[now])
        restore(copy, content)
    read(copy)
    assert sum(found) > times / 4


@pytest.mark.parametrize(
    "text",
    [
        "seeds: 2020-99-99",
        "seeds: !!int x",
        "seeds: !!timestamp x",
        "seeds: &a [*a]",
        "seeds: " + "[" * 600,  # deeper than Python goes
        "? [a, b]\n: 1",
    ],
    ids=lambda text: text[:20],
)
@pytest.mark.parametrize("read", [a_suite, published_numbers])
def test_yaml_that_nobody_would_write(read: Callable[[Path], None], text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read(path)
    assert one_line(str(error.value))


@pytest.mark.parametrize("steps", [[], [[1.0], [1.0, 2.0]]], ids=["none", "of several lengths"])
def test_recorded_weights_are_a_table(steps: Any, tmp_path: Path) -> None:
    baseline = golden_weights.Baseline(commit=None, torch="2", logs={}, weights={"log all_tasks": {"dwa": steps}})
    (tmp_path / golden_weights.FILE).write_text(baseline.model_dump_json(), encoding="utf-8")
    with pytest.raises(UserError, match="log all_tasks: dwa: expected steps of equally many weights, found others"):
        golden_weights.read(tmp_path)


def test_a_damaged_checkpoint_is_a_start_from_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """It is whole, or it is not there: never the same run with other numbers."""
    place = Checkpoint(tmp_path, "0123456789abcdef")
    weights = torch.randn(50, 20)
    place.save({"model": {"a": weights}, "step": 5, "rows": [[1.0, 2.0]] * 20})
    whole = place.path.read_bytes()
    for seed in range(4 * request.config.getoption("faults")):
        if damage(place.path, random.Random(seed)):
            assert place.load(torch.device("cpu")) is None, seed
            assert not place.path.exists()
        restore(place.path, whole)
    found = place.load(torch.device("cpu"))
    assert found is not None and torch.equal(found["model"]["a"], weights) and found["step"] == 5
