"""The records as data frames, as docs/data.md describes them; its examples are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_runs import make, suite, write_suite

import benchmarks
from benchmarks.records import RUN_COLUMNS, TRAJECTORY_COLUMNS

ROOT = Path(__file__).resolve().parent.parent
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
    first = everything.iloc[0]
    assert benchmarks.load(str(first["folder"]))["key"].tolist() == [first["key"]]


@pytest.mark.parametrize(("columns", "title"), [(RUN_COLUMNS, "## Runs"), (TRAJECTORY_COLUMNS, "## Trajectories")])
def test_the_page_has_the_columns_and_types_that_are_loaded(columns: dict[str, str], title: str, folder: Path) -> None:
    part = PAGE.split(title)[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", part, flags=re.MULTILINE)) == columns
    frame = benchmarks.load(folder) if title == "## Runs" else benchmarks.load_trajectories(folder)
    assert list(frame.columns[: len(columns)]) == list(columns)
    assert {name: str(frame[name].dtype) for name in columns} == columns


def test_types_are_the_same_whatever_the_runs(tmp_path: Path) -> None:
    failed = make(state="diverged", failed_step=20, reason="loss of task left is nan")
    frame = benchmarks.load(write_suite(tmp_path / "one", [failed]))
    assert {name: str(frame[name].dtype) for name in RUN_COLUMNS} == RUN_COLUMNS


def test_a_damaged_record_is_left_out_with_a_warning(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "two", [make(seed=0), make(seed=1)])
    place = sorted((folder / "runs").iterdir())[0]
    (place / "run.json").write_text("{")
    with pytest.warns(UserWarning, match=f"left out: .*{place.name}"):
        assert len(benchmarks.load(folder)) == 1


@pytest.mark.parametrize("what", [benchmarks.load, benchmarks.load_trajectories])
def test_no_records_are_one_line(what: object, tmp_path: Path) -> None:
    assert callable(what)
    with pytest.raises(ValueError, match=f"expected records below {tmp_path}, found none"):
        what(tmp_path)


def test_the_examples_of_the_page_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join(
        [*blocks, "assert len(best) and len(curves) and len(one) == len(curves) and len(slowest) and len(falls) == 8"]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_alone_is_light() -> None:
    code = "import sys, benchmarks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
