"""Experiment trackers: what is written can be read back, once, and equals the record."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
from fake_runs import make, write_suite

import run_bench
from benchmarks.errors import UserError
from benchmarks.record import Run
from benchmarks.tracking import check_tracker, configuration, rows, summary, track


def recorded(tmp_path: Path) -> tuple[Path, list[Run]]:
    runs = [make("uniform"), make("coba", 1)]
    return write_suite(tmp_path / "fake", runs), runs


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


# Of what MLflow does with SQLAlchemy.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore:.*noload.*")
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


def test_configurations_are_flat() -> None:
    found = configuration(make("static", hyperparameters={"weights": [1.0, 2.0]}))
    assert found["hp.weights"] == "[1.0, 2.0]"
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--track wandb: expected the package wandb, found none: pip install wandb"):
        check_tracker("wandb")


def test_the_option_tracks_what_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = Path(__file__).resolve().parent / "tiny_problem.py"
    file = tmp_path / "mine.yaml"
    file.write_text(f"seeds: [0]\nproblems: ['{tiny}:Tiny']\nweighters: [uniform]\ntraining: {{steps: 6}}\n")
    places = ["--out", str(tmp_path / "out"), "--plots", str(tmp_path / "plots"), "--jobs", "1"]
    assert run_bench.main([str(file), "--track", "tensorboard", *places]) == 0
    assert "5 runs written to tensorboard" in capsys.readouterr().out
    assert run_bench.main([str(file), "--track", "nothing", *places]) == 2
    assert "tensorboard, mlflow, wandb" in capsys.readouterr().err.replace("'", "")
