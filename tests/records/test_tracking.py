"""Experiment trackers: what is written can be read back, once, and equals the record."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pandas as pd
import pytest
from command_line import train
from fake_runs import make, write_suite
from suites import suite_file

from benchmarks.errors import StorageError, UserError
from benchmarks.records import tracking
from benchmarks.records.schema import COLUMNS, Run
from benchmarks.records.tracking import check_tracker, configuration, rows, summary, track

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore:.*noload.*")
"""MLflow's own use of SQLAlchemy warns once in a process."""


def recorded(tmp_path: Path) -> tuple[Path, list[Run]]:
    runs = [make("uniform"), make("coba", 1)]
    return write_suite(tmp_path / "fake", runs), runs


def steps_of(folder: Path, run: Run, name: str) -> list[int]:
    """The steps at which TensorBoard has a value, in order, doubled where a step was written twice."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (place,) = (folder / "tracking" / "tensorboard").glob(f"*{run.record.key[:6]}")
    events = [event for file in place.glob("events.*") for event in EventFileLoader(str(file)).Load()]
    return sorted(event.step for event in events for value in event.summary.value if value.tag == name)


def keys(runs: list[Run]) -> list[str]:
    return [run.record.key for run in runs]


def test_rows_are_those_of_the_trajectory() -> None:
    run = make("coba")
    found = dict(rows(run))
    for row in run.trajectory.to_dict("records"):
        for column, name in (("train_loss", "loss"), ("weight", "weight"), ("val_loss", "val_loss")):
            value = float(row[column])
            place = found[int(row["step"])]
            assert (f"{name}/{row['task']}" in place) == math.isfinite(value)
            if math.isfinite(value):
                assert place[f"{name}/{row['task']}"] == value


def test_tensorboard_holds_every_number_of_every_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, runs = recorded(tmp_path)
    assert track("tensorboard", folder, keys(runs)) == 2
    for run in runs:
        (place,) = (folder / "tracking" / "tensorboard").glob(f"*{run.record.key[:6]}")
        events = EventAccumulator(str(place))
        events.Reload()
        for task in run.record.tasks:
            written = {event.step: event.value for event in events.Scalars(f"val_loss/{task}")}
            expected = {step: numbers[f"val_loss/{task}"] for step, numbers in rows(run) if f"val_loss/{task}" in numbers}
            assert written == pytest.approx(expected)
        assert events.Scalars("test/left/loss")[0].value == pytest.approx(run.record.metrics["test"]["left/loss"])


@quiet
@pytest.mark.slow
def test_mlflow_holds_every_number_of_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    folder, runs = recorded(tmp_path)
    address = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert track("mlflow", folder, keys(runs)) == 2
    client = mlflow.MlflowClient(address)
    (experiment,) = client.search_experiments(filter_string="name = 'fake'")
    stored = {run.data.params["key"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(stored) == set(keys(runs))
    for run in runs:
        found = stored[run.record.key]
        assert found.data.params["method"] == run.label
        assert found.data.metrics["cost/seconds_per_step"] == pytest.approx(summary(run)["cost/seconds_per_step"])
        history = client.get_metric_history(found.info.run_id, "weight/left")
        expected = {step: numbers["weight/left"] for step, numbers in rows(run) if "weight/left" in numbers}
        assert {each.step: each.value for each in history} == pytest.approx(expected)


def test_no_run_is_written_twice_and_a_missing_one_waits(tmp_path: Path) -> None:
    folder, runs = recorded(tmp_path)
    assert track("tensorboard", folder, [keys(runs)[0], "0" * 16]) == 1
    assert track("tensorboard", folder, keys(runs)) == 1
    assert track("tensorboard", folder, keys(runs)) == 0


def test_a_crashed_run_is_written_once_it_is_trained_again(tmp_path: Path) -> None:
    nothing = pd.DataFrame(columns=list(COLUMNS))
    crashed, finished = make(state="crashed", reason="no memory left", trajectory=nothing), make()
    assert crashed.record.key == finished.record.key
    assert track("tensorboard", write_suite(tmp_path, [crashed]), keys([crashed])) == 0
    assert track("tensorboard", write_suite(tmp_path, [finished]), keys([finished])) == 1
    assert steps_of(tmp_path, finished, "weight/left") == sorted(
        step for step, row in rows(finished) if "weight/left" in row
    )


def test_a_failing_tracker_is_one_line_and_what_it_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Run) -> dict[str, float]:
        raise RuntimeError("the server\nis gone")

    folder, runs = recorded(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "summary", fail)
        with pytest.raises(
            StorageError, match=r"cannot write to tensorboard after 0 runs: RuntimeError: the server is gone$"
        ):
            track("tensorboard", folder, keys(runs))
    assert steps_of(folder, runs[0], "weight/left")
    assert track("tensorboard", folder, keys(runs)) == 2
    for run in runs:
        assert steps_of(folder, run, "weight/left") == sorted(step for step, row in rows(run) if "weight/left" in row)


def test_the_records_stay_as_they_are(tmp_path: Path) -> None:
    folder, runs = recorded(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert track("tensorboard", folder, keys(runs)) == 2
    assert {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()} == before


@quiet
@pytest.mark.slow
def test_mlflow_takes_tasks_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    run = make(tasks=("c++", "c#"))
    address = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert track("mlflow", write_suite(tmp_path / "fake", [run]), keys([run])) == 1
    client = mlflow.MlflowClient(address)
    (experiment,) = client.search_experiments(filter_string="name = 'fake'")
    (found,) = client.search_runs([experiment.experiment_id])
    written = [value for name, value in found.data.metrics.items() if name.startswith("test/") and name.endswith("/loss")]
    assert sorted(written) == pytest.approx(sorted(run.record.metrics["test"][f"{task}/loss"] for task in ("c++", "c#")))


def test_configurations_are_flat() -> None:
    found = configuration(make("static", hyperparameters={"weights": [1.0, 2.0]}))
    assert found["hp.weights"] == "[1.0, 2.0]"
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--track wandb: expected wandb accelerate, not found: pip install wandb accelerate"):
        check_tracker("wandb")


def test_mlflow_without_its_database_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "alembic" else "found")
    with pytest.raises(UserError, match="--track mlflow: expected alembic, not found: pip install alembic"):
        check_tracker("mlflow")


@pytest.mark.slow
def test_the_option_tracks_what_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = suite_file(tmp_path, training={"steps": 6})
    assert train(file, "--track", "tensorboard") == 0
    assert "5 runs written to tensorboard" in capsys.readouterr().out
    assert train(file, "--track", "nothing") == 2
    assert "tensorboard, mlflow, wandb" in capsys.readouterr().err.replace("'", "")
