"""The records as data frames, as docs/data.md describes them; its examples are run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import make, suite, write_suite
from places import ROOT

import benchmarks
from benchmarks.analysis.scores import SCORE_COLUMNS
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.records.frames import RUN_COLUMNS, TRAJECTORY_COLUMNS
from benchmarks.records.schema import COLUMNS

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("records") / "fake", suite(seeds=(0, 1), languages=2))


def test_a_row_for_every_run_with_what_the_record_says(folder: Path) -> None:
    frame = benchmarks.load(folder)
    runs = {run.record.key: run for run in suite(seeds=(0, 1), languages=2)}
    assert set(frame["key"]) == set(runs)
    for _, row in frame.iterrows():
        record = runs[str(row["key"])].record
        assert (row["method"], row["seed"], row["state"]) == (record.run.weighter.label, record.run.seed, record.state)
        for key, value in record.metrics.get("test", {}).items():
            assert row[f"test.{key}"] == value
        if record.costs is not None:
            assert row["seconds_per_step"] == record.costs.seconds_per_step
    assert frame.loc[frame["state"] == "diverged", "selected_step"].isna().all()
    assert set(frame["training.lr"]) == {1e-3}
    assert set(frame["version.torch"]) == {"2.13.0"}


def test_trajectories_are_those_of_the_files(folder: Path) -> None:
    frame = benchmarks.load_trajectories(folder)
    runs = suite(seeds=(0, 1), languages=2)
    assert len(frame) == sum(len(run.trajectory) for run in runs)
    one = runs[0]
    own = frame[frame["key"] == one.record.key]
    assert own["val_loss"].tolist() == pytest.approx(one.trajectory["val_loss"].tolist(), nan_ok=True)
    assert "probe.a" in frame


def test_a_folder_of_suites_and_a_single_run_can_be_read(folder: Path) -> None:
    everything = benchmarks.load(folder.parent)
    assert len(everything) == len(benchmarks.load(folder))
    above = folder.parent.parent / "above"
    above.mkdir()
    (above / "results").symlink_to(folder.parent, target_is_directory=True)
    assert benchmarks.load(above)["key"].tolist() == everything["key"].tolist()
    first = everything.iloc[0]
    assert benchmarks.load(str(first["folder"]))["key"].tolist() == [first["key"]]


Read = Callable[[Path], pd.DataFrame]
PARTS = [(RUN_COLUMNS, "## Runs"), (TRAJECTORY_COLUMNS, "## Trajectories"), (SCORE_COLUMNS, "## Scores")]
READERS: dict[str, Read] = {
    "## Runs": benchmarks.load,
    "## Trajectories": benchmarks.load_trajectories,
    "## Scores": benchmarks.load_scores,
}


@pytest.mark.filterwarnings("ignore:.*Δm")
@pytest.mark.parametrize(("columns", "title"), PARTS)
def test_the_page_has_the_columns_and_types_that_are_loaded(columns: dict[str, str], title: str, folder: Path) -> None:
    part = PAGE.split(title)[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", part, flags=re.MULTILINE)) == columns
    frame = READERS[title](folder)
    assert list(frame.columns[: len(columns)]) == list(columns)
    assert {name: str(frame[name].dtype) for name in columns} == columns


@pytest.mark.filterwarnings("ignore:.*Δm")
def test_scores_are_what_the_tables_are_averages_of(folder: Path) -> None:
    frame = benchmarks.load_scores(folder)
    runs = benchmarks.load(folder).query("state == 'finished'").set_index("key")
    assert set(frame["key"]) == set(runs.index)
    same = frame.set_index("key")
    for name in ("role", "seed", "test.left/accuracy", "extra_forwards"):
        assert same[name].to_dict() == pytest.approx(runs.loc[same.index, name].to_dict(), nan_ok=True)
    for tables in suite_tables(folder).sections:
        section, shown = tables.scores.section, tables.overview.frame.set_index("method")
        own = frame[(frame["section"] == section.name) & (frame["role"] == "method")]
        means = own.groupby("method")[["convergence_spread", "price_of_one_checkpoint"]].mean()
        assert len(means)
        pd.testing.assert_frame_equal(means, shown.loc[means.index, means.columns], check_names=False)


def test_scores_warn_of_what_is_missing(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "one", [make(), make("famo")])
    with pytest.warns(UserWarning, match="pictures: no single-task runs, so no Δm"):
        frame = benchmarks.load_scores(folder)
    assert frame["delta_m_over_metrics"].isna().all()
    assert frame["change_against_uniform"].notna().all()


def test_types_are_the_same_whatever_the_runs(tmp_path: Path) -> None:
    failed = make(state="diverged", failed_step=20, reason="loss of task left is nan")
    frame = benchmarks.load(write_suite(tmp_path / "one", [failed]))
    assert {name: str(frame[name].dtype) for name in RUN_COLUMNS} == RUN_COLUMNS


BOTH = pytest.mark.parametrize("read", [benchmarks.load, benchmarks.load_trajectories])
ALL = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


def break_json(place: Path) -> None:
    (place / "run.json").write_text("{")


def break_numbers(place: Path) -> None:
    file = place / "trajectory.parquet"
    pd.read_parquet(file).assign(weight="heavy").to_parquet(file)


@BOTH
@pytest.mark.parametrize("damage", [break_json, break_numbers])
def test_a_damaged_record_is_left_out_with_a_warning(damage: Callable[[Path], None], read: Read, tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "two", [make(seed=0), make(seed=1)])
    damaged, sound = sorted((folder / "runs").iterdir())
    damage(damaged)
    with pytest.warns(UserWarning, match=f"left out: .*{damaged.name}"):
        assert set(read(folder)["key"]) == {sound.name}


@BOTH
def test_types_are_the_same_where_every_record_is_damaged(read: Read, tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "one", [make()])
    break_json(next((folder / "runs").iterdir()))
    with pytest.warns(UserWarning, match="left out"):
        frame = read(folder)
    assert frame.empty
    assert dict(frame.dtypes.astype(str)) in (RUN_COLUMNS, TRAJECTORY_COLUMNS)


def test_a_run_that_ended_before_its_first_row_has_a_row_among_the_runs_alone(tmp_path: Path) -> None:
    nothing = pd.DataFrame(columns=list(COLUMNS))
    planned = {"window": "auto", "scale": 2.0}
    crashed = make(seed=1, state="crashed", reason="no memory left", trajectory=nothing, hyperparameters=planned)
    folder = write_suite(tmp_path / "two", [make(seed=0), crashed])
    frame = benchmarks.load(folder).set_index("seed")
    assert frame.loc[1, "state"] == "crashed"
    assert frame.loc[1, "hp.scale"] == 2.0
    assert "hp.window" not in frame
    curves = benchmarks.load_trajectories(folder)
    assert set(curves["seed"]) == {0}
    assert {name: str(curves[name].dtype) for name in TRAJECTORY_COLUMNS} == TRAJECTORY_COLUMNS


@ALL
def test_no_records_are_one_line(read: Read, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"expected records below {place}, found none"):
            read(place)


@pytest.mark.slow
def test_the_examples_of_the_page_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join(
        [
            *blocks,
            "assert len(best) and len(curves) and len(one) == len(curves) and len(slowest) and len(lowest)",
            "assert len(gain) and len(scores) <= len(runs)",
            "assert set(lowest.method) == set(runs[runs.role == 'method'].method)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_alone_is_light() -> None:
    code = "import sys, benchmarks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
