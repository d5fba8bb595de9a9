"""A record knows its code: what changes its key, what does not; older records get today's key; damage is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from places import REFERENCE
from suites import OWN, TINY, plan_of, suite
from tiny_problem import Tiny
from torch import Tensor
from written_records import rewrite

import weighting
from benchmarks.catalog import own_source
from benchmarks.contract import Training
from benchmarks.errors import UserError
from benchmarks.harness.worker import check_unchanged
from benchmarks.records.migrate import migrate
from benchmarks.records.packed import LINES_FILE, PACKED_FILES, PLAIN_LINES_FILE, ROWS_FILE, Packed, line_of
from benchmarks.records.packing import pack_runs, unpack_runs
from benchmarks.records.schema import RunSpec
from benchmarks.records.storage import DamagedRecordError, checksum_line, read_run, run_folders
from benchmarks.regression import golden_weights
from weighting.dwa import DynamicWeightAverage


def spec_of(folder: Path, weighter: str = "dwa", **problem: Any) -> RunSpec:
    content = suite(problems=[{"name": TINY, **problem}], weighters=[weighter])
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

    def _ratio(self) -> Tensor:
        return 1.5 * super()._ratio()


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
    """The folders of some recorded runs of a problem and methods that are still of version 1, as all of form 1 were."""
    folder = tmp_path_factory.mktemp("unpacked") / "quick"
    folder.mkdir()
    for name in (LINES_FILE, ROWS_FILE):
        shutil.copy(REFERENCE / "quick" / name, folder)
    unpack_runs(folder)
    specs = [(place, read_run(place).record.run) for place in run_folders(folder)]
    return [place for place, spec in specs if spec.problem.version == spec.weighter.version == 1][:6]


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
        unknown = {"mean_weights": one.record.mean_weights, "ended": one.record.ended}
        assert one.record == other.record.model_copy(update=unknown)
        assert one.trajectory.equals(other.trajectory)
    again = migrate(tmp_path)
    assert (again.rewritten, again.already) == (0, 6)


def in_words_of_form_2(folder: Path, place: Path, name: str, hyperparameters: dict[str, Any], label: str) -> Path:
    """A recorded run as form 2 would have it, whole, under the method and hyperparameters given."""
    target = folder / "runs" / f"{len(list(folder.rglob('run.json'))):016x}"
    shutil.copytree(place, target)
    content = json.loads((target / "run.json").read_bytes())
    content["run"]["weighter"] |= {"name": name, "version": 2, "hyperparameters": hyperparameters, "label": label}
    rewrite(target, content | {"schema_version": 2, "key": target.name, "resolved": hyperparameters})
    return target


COBA = {"warmup": 20, "window": 100, "tau": 5.0, "update_every": 1}
OLD_COBA = {**COBA, "variant": "paper", "history": "from_warmup", "components": "full", "mix": 0.5}
TODAY = [
    ("coba", {**OLD_COBA}, "coba", "coba", COBA, "coba"),
    ("coba", {**OLD_COBA, "variant": "mftcoder"}, "coba[variant=mftcoder]", "coba_mftcoder", COBA, "coba_mftcoder"),
    ("coba", {**OLD_COBA, "variant": "mftcoder"}, "coba[tau=2]", "coba_mftcoder", COBA, "coba_mftcoder[tau=2]"),
    (
        "coba",
        {**OLD_COBA, "components": "relative"},
        "coba[components=relative, tau=2]",
        "coba_relative",
        COBA,
        "coba_relative[tau=2]",
    ),
    ("coba", {**OLD_COBA, "components": "absolute"}, "coba", "coba_absolute", COBA, "coba_absolute"),
    (
        "coba",
        {**OLD_COBA, "components": "fixed_mix", "mix": 0.3},
        "coba[mix=0.3]",
        "coba_fixed_mix",
        {**COBA, "mix": 0.3},
        "coba_fixed_mix[mix=0.3]",
    ),
    ("coba", {**OLD_COBA, "history": "from_start"}, "coba[history=from_start]", "coba_from_start", COBA, "coba_from_start"),
    ("dwa", {"window": 5, "variant": "nash_mtl"}, "dwa[variant=nash_mtl]", "dwa_nash_mtl", {"window": 5}, "dwa_nash_mtl"),
    ("gradnorm", {"floor": 0.001, "variant": "libmtl"}, "gradnorm", "gradnorm_libmtl", {}, "gradnorm_libmtl"),
    ("gradnorm", {"floor": 0.0, "variant": "paper"}, "gradnorm[floor=0]", "gradnorm", {"floor": 0.0}, "gradnorm[floor=0]"),
    (
        "lbtw",
        {"alpha": 0.5, "variant": "official"},
        "lbtw[variant=official]",
        "lbtw_official",
        {"alpha": 0.5},
        "lbtw_official",
    ),
    (
        "famo",
        {"feedback": "validation"},
        "famo[feedback=validation]",
        "famo",
        {"losses_from": "validation"},
        "famo[losses_from=validation]",
    ),
    (
        "static",
        {"weights": [1, 2], "feedback": "training"},
        "coba[variant=mftcoder]",
        "static",
        {"weights": [1, 2], "losses_from": "training"},
        "coba_mftcoder",
    ),
    (
        "own.py:Mine",
        {"variant": "b", "floor": 1},
        "Mine[variant=b]",
        "own.py:Mine",
        {"variant": "b", "floor": 1},
        "Mine[variant=b]",
    ),
]


@pytest.mark.parametrize(("name", "values", "label", "today", "kept", "new_label"), TODAY, ids=str)
def test_variants_and_ablations_get_their_names(
    tmp_path: Path,
    places: list[Path],
    name: str,
    values: dict[str, Any],
    label: str,
    today: str,
    kept: dict[str, Any],
    new_label: str,
) -> None:
    before = read_run(places[0])
    in_words_of_form_2(tmp_path, places[0], name, values, label)
    assert vars(migrate(tmp_path)) == {"rewritten": 1, "already": 0, "left": []}
    after = read_run(next(run_folders(tmp_path)))
    weighter = after.record.run.weighter
    assert (weighter.name, weighter.version, weighter.hyperparameters, weighter.label) == (today, 2, kept, new_label)
    assert after.record.resolved == kept
    assert after.record.key == after.record.run.key
    assert after.trajectory.equals(before.trajectory) and after.record.metrics == before.record.metrics


def test_what_has_no_name_today_is_left_and_named(tmp_path: Path, places: list[Path]) -> None:
    both = {**OLD_COBA, "components": "relative", "history": "from_start"}
    place = in_words_of_form_2(tmp_path, places[0], "coba", both, "coba")
    before = (place / "run.json").read_bytes()
    found = migrate(tmp_path)
    assert found.rewritten == 0
    assert found.left == [
        f"{place}: expected one variant of coba, which has a name today, found coba_relative and coba_from_start"
    ]
    assert (place / "run.json").read_bytes() == before


def packed_in_form_2(folder: Path, places: Sequence[Path]) -> list[bytes]:
    """Some recorded runs as they were packed in form 2; the lines."""
    for place in places:
        shutil.copytree(place, folder / "runs" / place.name)
    pack_runs(folder)
    packed, lines = Packed(folder), []
    for place in places:
        content = json.loads(packed.content(place.name)) | {"schema_version": 2}
        del content["checksum"]
        rest = json.dumps(content, indent=1).removeprefix("{\n").encode()
        lines.append(line_of(checksum_line(rest) + b"\n" + rest, packed.trajectory(place.name)))
    # Until then lines were not compressed.
    (folder / LINES_FILE).unlink()
    (folder / PLAIN_LINES_FILE).write_bytes(b"\n".join([*lines, b""]))
    return lines


def test_packed_runs_of_form_2_become_folders_of_today(tmp_path: Path, places: list[Path]) -> None:
    packed_in_form_2(tmp_path, places)
    assert vars(migrate(tmp_path)) == {"rewritten": 6, "already": 0, "left": []}
    assert not any((tmp_path / name).exists() for name in PACKED_FILES)
    for place in places:
        one, other = read_run(place), read_run(tmp_path / "runs" / place.name)
        assert one.record == other.record.model_copy(update={"trajectory_sha256": one.record.trajectory_sha256})
        assert one.trajectory.equals(other.trajectory)


def test_packed_files_stay_where_a_run_in_them_is_damaged(tmp_path: Path, places: list[Path]) -> None:
    lines = packed_in_form_2(tmp_path, places)
    lines[2] = lines[2].replace(b'"suite": "quick"', b'"suite": "quack"')
    content = b"\n".join([*lines, b""])
    (tmp_path / PLAIN_LINES_FILE).write_bytes(content)
    found = migrate(tmp_path)
    assert (found.rewritten, len(found.left)) == (5, 1)
    assert places[2].name in found.left[0] and "it is not as it was written" in found.left[0]
    assert (tmp_path / PLAIN_LINES_FILE).read_bytes() == content
    assert len(list(run_folders(tmp_path))) == 5


@pytest.mark.parametrize("file", ["run.json", "trajectory.parquet"])
def test_a_changed_byte_is_not_taken_over(tmp_path: Path, places: list[Path], file: str) -> None:
    place = in_words_of_form_2(tmp_path, places[0], "coba", OLD_COBA, "coba")
    content = bytearray((place / file).read_bytes())
    content[len(content) // 2] ^= 1
    (place / file).write_bytes(content)
    found = migrate(tmp_path)
    assert (found.rewritten, found.already, len(found.left)) == (0, 0, 1)
    assert str(place) in found.left[0]


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


@pytest.mark.parametrize("form", [1, 2])
def test_an_older_record_names_the_command(tmp_path: Path, places: list[Path], form: int) -> None:
    if form == 1:
        place = next(run_folders(older(tmp_path, places[:1])))
    else:
        place = in_words_of_form_2(tmp_path, places[0], "uniform", {}, "uniform")
    hint = rf"expected schema_version 3, found {form}; `run_bench.py migrate .*` rewrites"
    with pytest.raises(DamagedRecordError, match=hint):
        read_run(place)


def test_defaults_of_training_are_those_of_the_problem() -> None:
    assert Training(steps=5).threads == Training(steps=5).accumulate == 1
