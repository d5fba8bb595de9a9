"""Recorded runs in an experiment tracker, through Accelerate, which speaks to all of them.

Written from the records once they are complete, so that a tracker cannot touch the training or its timing, an interrupted
run is not logged twice, and a suite that was trained before can be tracked without training it again.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import StorageError, UserError, one_line
from benchmarks.records.reading import read_all
from benchmarks.records.schema import KEPT_STATES, Run

PACKAGES = {
    "tensorboard": {"tensorboard": "tensorboard"},
    # Not the package mlflow: it holds pyarrow below the version that writes the records.
    "mlflow": {"mlflow": "mlflow-skinny", "sqlalchemy": "SQLAlchemy", "alembic": "alembic"},
    "wandb": {"wandb": "wandb"},
}
"""Tracker -> the modules it needs, with the packages to install."""


def check_tracker(name: str) -> None:
    """Raise UserError unless the tracker and Accelerate are installed."""
    needed = {**PACKAGES[name], "accelerate": "accelerate"}
    missing = " ".join(package for module, package in needed.items() if importlib.util.find_spec(module) is None)
    if missing:
        raise UserError(f"--track {name}: expected {missing}, not found: pip install {missing}")


def track(name: str, suite_folder: Path, keys: Sequence[str]) -> int:
    """Write the recorded runs with these keys that the tracker has not seen, and return how many there were.

    TensorBoard and MLflow write to ``<suite>/tracking/<name>`` unless MLFLOW_TRACKING_URI says otherwise; a file there
    for each run says that it is done. Runs that the next command trains again wait until they have ended for good.
    Raises UserError for a package that is missing, StorageError where the tracker cannot be written to.
    """
    check_tracker(name)
    folder = suite_folder / "tracking" / name
    done = 0
    try:
        (folder / "done").mkdir(parents=True, exist_ok=True)
        new = [key for key in keys if not (folder / "done" / key).exists()]
        runs = {run.record.key: run for run in read_all(suite_folder, new) if isinstance(run, Run)}
        for key in new:
            if key in runs and runs[key].record.state in KEPT_STATES:
                _write(name, folder, runs[key])
                (folder / "done" / key).touch()
                done += 1
    # Each tracker has errors of its own: a server that is not there, a key that is not known.
    except Exception as error:
        raise StorageError(f"cannot write to {name} after {done} runs: {one_line(error)}") from error
    return done


def rows(run: Run) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and ``loss/<task>``, ``weight/<task>``, ``val_loss/<task>`` of every logged row, meaned over replicas."""
    names = {"train_loss": "loss", "weight": "weight", "val_loss": "val_loss"}
    means = run.trajectory.groupby(["step", "task"], sort=True, as_index=False)[list(names)].mean()
    found: dict[int, dict[str, float]] = {}
    for row in means.to_dict("records"):
        numbers = {_allowed(f"{short}/{row['task']}"): float(row[column]) for column, short in names.items()}
        known = {name: value for name, value in numbers.items() if math.isfinite(value)}
        found.setdefault(int(row["step"]), {}).update(known)
    yield from found.items()


def configuration(run: Run) -> dict[str, Any]:
    """What tells the run from others, flat; lists as text, since trackers take single values."""
    record, spec = run.record, run.record.run
    found: dict[str, Any] = {
        "problem": run.problem, "method": run.label, "role": spec.role, "seed": run.seed, "key": record.key,
        "commit": record.commit, "state": record.state, "flags": ", ".join(flag.name for flag in record.flags),
    }  # fmt: skip
    found |= {f"hp.{name}": value for name, value in (record.resolved or spec.weighter.hyperparameters).items()}
    found |= {f"training.{name}": value for name, value in spec.training.model_dump().items()}
    return {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in found.items()}


def summary(run: Run) -> dict[str, float]:
    """Metrics and costs at the end."""
    found = {
        _allowed(f"{split}/{name}"): value
        for split, metrics in run.record.metrics.items()
        for name, value in metrics.items()
    }
    costs = {} if run.record.costs is None else run.record.costs.model_dump(exclude_none=True)
    return found | {f"cost/{name}": float(value) for name, value in costs.items()}


def _allowed(name: str) -> str:
    """The name with what MLflow refuses in it (the signs of c++ and c#) as code points, so that no two become one."""
    return re.sub(r"[^\w ./:-]", lambda sign: f"_{ord(sign[0]):x}", name)


def _write(name: str, folder: Path, run: Run) -> None:
    tracker = _tracker(name, folder, run)
    tracker.start()
    try:
        tracker.store_init_configuration(configuration(run))
        for step, numbers in rows(run):
            tracker.log(numbers, step=step)
        tracker.log(summary(run), step=run.record.run.training.steps)
    finally:
        tracker.finish()


def _tracker(name: str, folder: Path, run: Run) -> Any:
    from accelerate import PartialState, tracking

    # The trackers write on the main process only, and this is what tells them that they are on it.
    PartialState(cpu=True)
    title = re.sub(
        r"[^\w.,=()\[\]-]+", "_", f"{run.problem}-{run.label}-{run.record.run.role}-seed{run.seed}-{run.record.key[:6]}"
    )
    if name == "tensorboard":
        # What an interrupted command left half-written is written again as a whole.
        shutil.rmtree(folder / title, ignore_errors=True)
        return tracking.TensorBoardTracker(title, folder)
    if name == "mlflow":
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        return tracking.MLflowTracker(
            run.record.suite, logging_dir=(folder / "artifacts").resolve().as_uri(), run_name=title
        )
    return tracking.WandBTracker(run.record.suite, name=title, dir=str(folder))
