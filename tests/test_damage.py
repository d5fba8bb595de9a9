"""Files that are not as they were written: whoever reads them notices and says so in a line, and nobody ends in a traceback.

``pytest tests/test_damage.py --faults 10000`` damages records so often; each fault has a seed of its own.
"""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from faults import DAMAGES, damage, mistaken, restore
from test_harness import in_process, jobs_of, write_suite

from benchmarks.analysis import loading
from benchmarks.cli import main as command_line
from benchmarks.errors import UserError
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.worker import Job, recorded_meanwhile
from benchmarks.papers import published as published
from benchmarks.planning import follow_up
from benchmarks.planning.status import plan_status
from benchmarks.planning.suite import read_suite
from benchmarks.records import frames, tracking
from benchmarks.records.migrate import migrate
from benchmarks.records.storage import RUN_FILE, TRAJECTORY_FILE, run_folder, run_folders
from benchmarks.regression import baseline, golden_weights, history, picture

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference"
FILES = (RUN_FILE, TRAJECTORY_FILE)


# ---- records ---------------------------------------------------------------------------------------------------------


def one_line(text: str) -> bool:
    return bool(text) and "\n" not in text


def stock(job: Job) -> bool:
    found = plan_status(job.folder, [job.spec])
    return job.spec.key in found.to_do and one_line(found.damaged[job.spec.key])


def worker(job: Job) -> bool:
    return recorded_meanwhile(job) is None


def report(job: Job) -> bool:
    found = loading.load(job.folder)
    (unusable,) = found.unusable
    return unusable.folder.name == job.spec.key and one_line(unusable.reason) and len(found.runs) == 1


def compare_and_check(job: Job) -> bool:
    found = baseline.read(job.folder)
    return one_line(found.lost[job.spec.key]) and len(found.runs) == 1


def reproduce(job: Job) -> bool:
    return all(run.record.key != job.spec.key for run in loading.load(job.folder, {job.spec.key}).runs)


def followed_up(job: Job) -> bool:
    return follow_up._recorded(job.folder, job.spec.key) is None


def tracker(job: Job) -> bool:
    return tracking._recorded(run_folder(job.folder, job.spec.key)) is None


def frame(read: Callable[[Path], pd.DataFrame], job: Job) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read(job.folder)
    (warning,) = caught
    keys = set(found["key"])
    return len(keys) == 1 and job.spec.key not in keys and one_line(str(warning.message))


def migration(job: Job) -> bool:
    found = migrate(job.folder)
    (left,) = found.left
    return job.spec.key in left and one_line(left) and (found.rewritten, found.already) == (0, 1)


READERS: dict[str, Callable[[Job], bool]] = {
    "the stock": stock,
    "a worker": worker,
    "report": report,
    "compare and check": compare_and_check,
    "reproduce": reproduce,
    "tuned and frozen runs": followed_up,
    "trackers": tracker,
    "benchmarks.load": partial(frame, frames.load),
    "benchmarks.load_trajectories": partial(frame, frames.load_trajectories),
    "migrate": migration,
}
"""Who reads a run; each says whether it noticed the damage, and used the run beside it."""


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The one that is to be damaged."""
    suite = write_suite(tmp_path_factory.mktemp("damage"), training={"steps": 60, "log_every": 2})
    job, other = jobs_of(suite, "uniform", "random")
    for each in (job, other):
        assert in_process(each).state == "finished"
    return job


def test_every_fault_in_a_record_is_noticed_by_everybody(two_runs: Job, request: pytest.FixtureRequest) -> None:
    place = run_folder(two_runs.folder, two_runs.spec.key)
    whole = {name: (place / name).read_bytes() for name in FILES}
    unnoticed: list[tuple[int, str]] = []
    raised: list[tuple[int, str, str]] = []
    for seed in range(request.config.getoption("faults")):
        draw = random.Random(seed)
        name = draw.choice(FILES)
        if damage(place / name, draw):
            for reader, notices in READERS.items():
                try:
                    if not notices(two_runs):
                        unnoticed.append((seed, reader))
                except Exception as error:  # noqa: BLE001 - which is what must not happen, whatever it is
                    raised.append((seed, reader, repr(error)))
        restore(place / name, whole[name])
    assert (unnoticed, raised) == ([], [])
    assert not plan_status(two_runs.folder, [two_runs.spec]).to_do


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of runs, of which one for each kind of fault and file is damaged, and two are whole."""
    suite = write_suite(tmp_path_factory.mktemp("many"), seeds=list(range(len(DAMAGES) + 1)))
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
    "the plan": (lambda suite: [str(suite), "--weighters", "uniform,random", "--dry-run"], 0, "", 0),
    "report": (
        lambda suite: ["report", str(suite), "--weighters", "uniform,random", "--html"],
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
    out = [] if name == "migrate" else ["--out", str(many_runs.parent / "out"), "--plots", str(many_runs.parent / "plots")]
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
    "recorded weights": (REFERENCE / "trajectories.json", recorded_weights, 60),
    "history of checks": (next((ROOT / "results" / "history").glob("*.json")), checks_before, 100),
}
"""File, what reads it, and how often it is damaged by default, as reading some takes long."""


@pytest.mark.parametrize("name", OTHERS)
def test_a_damaged_file_is_read_or_told_in_a_line(name: str, tmp_path: Path) -> None:
    original, read, times = OTHERS[name]
    content, copy = original.read_bytes(), tmp_path / original.name
    told = 0
    for seed in range(times):
        copy.write_bytes(content)
        damage(copy, random.Random(seed), (mistaken, mistaken) if copy.suffix == ".json" else ())
        try:
            read(copy)
        except UserError as error:
            assert one_line(str(error)), seed
            told += 1
        restore(copy, content)
    read(copy)
    assert told > times / 4


@pytest.mark.parametrize(
    "text",
    [
        "seeds: 2020-99-99",
        "seeds: !!int x",
        "seeds: !!timestamp x",
        "seeds: &a [*a]",
        "seeds: " + "[" * 20_000,
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
