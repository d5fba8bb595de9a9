"""A record knows its code: what changes its key, what does not; older records get today's key; damage is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from suites import OWN, plan_of, suite
from tiny_problem import Tiny

import weighting
from benchmarks.catalog import own_source
from benchmarks.contract import Training
from benchmarks.errors import UserError
from benchmarks.harness.worker import check_unchanged
from benchmarks.records.migrate import migrate
from benchmarks.records.packed import LINES_FILE, ROWS_FILE
from benchmarks.records.packing import unpack_runs
from benchmarks.records.schema import RunSpec
from benchmarks.records.storage import DamagedRecordError, read_run, run_folders
from benchmarks.regression import golden_weights
from weighting.dwa import DynamicWeightAverage

REFERENCE = ROOT / "results" / "reference"


def spec_of(folder: Path, weighter: str = "dwa", **problem: Any) -> RunSpec:
    content = suite(problems=[{"name": f"{OWN}:Tiny", **problem}], weighters=[weighter])
    return next(run for run in plan_of(folder, content).runs if run.weighter.name == weighter and run.role == "method")


def test_a_new_hyperparameter_with_the_old_behaviour_changes_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec_of(tmp_path).key

    class WithMore(DynamicWeightAverage):
        def __init__(self, num_tasks: int, *, newest: float = 0.5, **more: Any) -> None:
            super().__init__(num_tasks, **more)

    assert "newest" not in spec_of(tmp_path).weighter.hyperparameters
    monkeypatch.setitem(weighting.METHODS, "dwa", WithMore)
    after = spec_of(tmp_path)
    assert after.weighter.hyperparameters["newest"] == 0.5
    assert after.key == before
    assert spec_of(tmp_path, training={"threads": 1}).key == before
    assert spec_of(tmp_path, training={"threads": 2}).key != before
    assert spec_of(tmp_path, training={"steps": Tiny.training.steps}).key == before


def test_a_new_training_setting_changes_no_key(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    written = json.loads(spec.model_dump_json())
    # As a record from before the setting has it.
    del written["training"]["accumulate"]
    assert RunSpec.model_validate_json(json.dumps(written)).key == spec.key


def test_a_new_version_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec_of(tmp_path).key
    monkeypatch.setattr(DynamicWeightAverage, "version", 7)
    after = spec_of(tmp_path)
    assert after.weighter.version == 7 and after.key != before


def test_numbers_written_otherwise_are_the_same_run(tmp_path: Path) -> None:
    entries = [{"name": "coba", "tau": 7}, {"name": "coba", "tau": 7.0}]
    keys = {plan_of(tmp_path, suite(weighters=[entry])).runs[0].key for entry in entries}
    assert len(keys) == 1


def test_what_a_class_imports_from_beside_it_is_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from helper import VALUE\nfrom tiny_problem import Tiny\nclass Mine(Tiny):\n    pass\n"
    )
    (tmp_path / "helper.py").write_text("import further\nVALUE = 1\n")
    (tmp_path / "further.py").write_text("FURTHER = 1\n")
    (tmp_path / "stranger.py").write_text("STRANGER = 1\n")
    shutil.copy(tmp_path / "own.py", tmp_path / "again.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        name = f"{tmp_path}/own.py:Mine"
        before = own_source(name)
        (tmp_path / "stranger.py").write_text("STRANGER = 2\n")
        assert own_source(name) == before
        (tmp_path / "further.py").write_text("FURTHER = 2\n")
        assert own_source(name) != before


def test_a_file_that_changed_after_the_plan_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "own.py"
    shutil.copy(OWN, copy)
    runs = plan_of(tmp_path, suite(problems=[f"{copy}:Tiny"], weighters=["famo"])).runs
    check_unchanged(runs[0])
    copy.write_text(copy.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    with pytest.raises(UserError, match="expected the problem as it was planned, found a file that has changed since"):
        check_unchanged(runs[0])


def test_data_on_disk_enter_by_content(tmp_path: Path) -> None:
    def key(folder: Path) -> str:
        content = suite(
            problems=[{"name": "code_lm", "options": {"data": {"one": str(folder), "two": str(folder)}}}],
            weighters=["uniform"],
        )
        return plan_of(tmp_path, content).runs[0].key

    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "a.txt").write_text("text " * 100)
    shutil.copytree(first, second)
    assert key(first) == key(second)
    (second / "a.txt").write_text("text " * 100 + "!")
    assert key(first) != key(second)


# ---- golden weights --------------------------------------------------------------------------------------------------


class Changed(DynamicWeightAverage):
    """Another formula under the old version."""

    def _shares(self, newer: Any, older: Any) -> Any:
        return super()._shares(1.5 * newer, older)


def test_changed_weights_want_a_new_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden_weights.record(tmp_path, ["dwa"], None)
    golden_weights.record(tmp_path, ["dwa"], None)
    monkeypatch.setitem(weighting.METHODS, "dwa", Changed)
    with pytest.raises(UserError, match=r"dwa: expected a new `version` of dwa.*, whose weights have changed"):
        golden_weights.record(tmp_path, ["dwa"], None)
    assert {verdict.state for verdict in golden_weights.judge(golden_weights.read(tmp_path), ["dwa"])} >= {"failed"}
    monkeypatch.setattr(Changed, "version", 2)
    verdicts = golden_weights.judge(golden_weights.read(tmp_path), ["dwa"])
    assert any(verdict.state == "not judged" and "version 2, recorded is 1" in verdict.reason for verdict in verdicts)
    golden_weights.record(tmp_path, ["dwa"], None)
    assert {verdict.state for verdict in golden_weights.judge(golden_weights.read(tmp_path), ["dwa"])} == {"ok"}


# ---- migration -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of some recorded runs."""
    folder = tmp_path_factory.mktemp("unpacked") / "quick"
    folder.mkdir()
    for name in (LINES_FILE, ROWS_FILE):
        shutil.copy(REFERENCE / "quick" / name, folder)
    unpack_runs(folder)
    return list(run_folders(folder))[:6]


def older(folder: Path, places: Sequence[Path]) -> Path:
    """The runs in the form of before, under other keys."""
    suite_folder = folder / "multidigits"
    for place in places:
        target = suite_folder / "runs" / ("f" * 8 + place.name[:8])
        shutil.copytree(place, target)
        record = json.loads((target / "run.json").read_bytes())
        for name in ("checksum", "trajectory_sha256", "mean_weights", "ended"):
            record.pop(name, None)
        record |= {"schema_version": 1, "key": target.name}
        record["run"]["training"].pop("threads")
        for part in ("problem", "weighter"):
            record["run"][part].pop("version")
        (target / "run.json").write_text(json.dumps(record, indent=1))
    return suite_folder


def test_migration_gives_todays_keys_and_loses_nothing(tmp_path: Path, places: list[Path]) -> None:
    folder = older(tmp_path, places)
    found = migrate(tmp_path)
    assert (found.rewritten, found.already, found.left) == (6, 0, [])
    for place in places:
        one, other = read_run(place), read_run(folder / "runs" / place.name)
        assert one.record == other.record.model_copy(update={"mean_weights": one.record.mean_weights})
        assert one.trajectory.equals(other.trajectory)
    again = migrate(tmp_path)
    assert (again.rewritten, again.already) == (0, 6)


def test_an_interrupted_migration_goes_on(tmp_path: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, removed = older(tmp_path, places), list[Path]()

    def killed(path: Path, **_: Any) -> None:
        removed.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("benchmarks.records.migrate.shutil.rmtree", killed)
        migrate(tmp_path)
    assert removed
    migrate(tmp_path)
    assert sorted(place.name for place in run_folders(folder)) == [place.name for place in places]


def test_a_damaged_record_is_left_and_named(tmp_path: Path, places: list[Path]) -> None:
    folder = older(tmp_path, places[:2])
    first = next(run_folders(folder))
    (first / "trajectory.parquet").write_bytes(b"nothing")
    found = migrate(tmp_path)
    assert (found.rewritten, found.already, len(found.left)) == (1, 0, 1)
    with pytest.raises(UserError, match=r"expected records below .*, found none"):
        migrate(tmp_path / "nowhere")


# ---- damage, of which test_damage has more -----------------------------------------------------------------------------


def test_files_of_two_runs_are_not_mixed(tmp_path: Path, places: list[Path]) -> None:
    one, other = places[:2]
    copy = tmp_path / "runs" / one.name
    shutil.copytree(one, copy)
    shutil.copy(other / "trajectory.parquet", copy)
    with pytest.raises(DamagedRecordError, match="it is not as it was written"):
        read_run(copy)
    shutil.rmtree(copy)
    (copy / "run.json").mkdir(parents=True)
    with pytest.raises(DamagedRecordError, match="cannot be read"):
        read_run(copy)


def test_an_older_record_names_the_command(tmp_path: Path, places: list[Path]) -> None:
    place = next(run_folders(older(tmp_path, places[:1])))
    with pytest.raises(DamagedRecordError, match=r"expected schema_version 2, found 1; `run_bench.py migrate .*` rewrites"):
        read_run(place)


def test_defaults_of_training_are_those_of_the_problem() -> None:
    assert Training(steps=5).threads == Training(steps=5).accumulate == 1
