"""The records as data frames: ``benchmarks.load`` for runs, ``benchmarks.load_trajectories`` for their curves.

docs/data.md has the columns with units and types.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.errors import one_line
from benchmarks.records.reading import Unusable, read_all, suites_below
from benchmarks.records.schema import COLUMNS, Run
from benchmarks.records.storage import RUN_FILE, TRAJECTORY_FILE, DamagedRecordError, run_folder

RUN_COLUMNS = {
    "key": "str", "suite": "str", "problem": "str", "method": "str", "weighter": "str", "role": "str", "seed": "int64",
    "state": "str", "reason": "str", "tasks": "object", "selection_rule": "str", "selected_step": "Int64",
    "seconds_per_step": "float64", "train_seconds": "float64", "extra_forwards": "float64", "extra_backwards": "float64",
    "peak_memory_mb": "float64", "flags": "object", "num_parameters": "int64", "commit": "str",
    "started": "datetime64[us, UTC]", "folder": "str", "training.steps": "int64", "training.batch_size": "int64",
    "training.optimizer": "str", "training.lr": "float64", "training.weight_decay": "float64",
    "training.momentum": "float64", "training.lr_schedule": "str", "training.grad_clip": "float64",
    "training.threads": "int64", "training.normalize": "str", "training.log_every": "int64",
    "training.probes": "bool", "training.validation_batches": "int64", "training.evaluate_every": "int64",
    "training.selection": "str", "training.warmup_steps": "int64", "training.patience": "Int64",
}  # fmt: skip
"""Columns that every frame of runs has, in this order, with their types; the others depend on the runs."""
TRAJECTORY_COLUMNS = {
    "key": "str", "suite": "str", "problem": "str", "method": "str", "role": "str", "seed": "int64", "step": "int64",
    "replica": "int32", "task": "str", "train_loss": "float64", "val_loss": "float64", "weight": "float64",
    "count": "float64",
}  # fmt: skip
"""The same for trajectories; columns ``probe.*`` and ``method.*`` of float64 follow where runs have them."""
OF_RUN = ("key", "suite", "problem", "method", "role", "seed")
PREFIXES = ("hp", "validation", "test", "version")


def load(path: str | Path) -> pd.DataFrame:
    """One row per run below ``path``: a suite's folder, a folder of suites, or one run.

    Columns: ``RUN_COLUMNS``, then ``hp.<name>`` (hyperparameters as used), ``validation.<metric>``, ``test.<metric>`` and
    ``version.<package>``. A record that cannot be read is left out with a warning. Raises ValueError where there are none.
    """
    runs = list(_runs(Path(path)))
    frame = pd.DataFrame([_row(folder, run) for folder, run in runs], columns=_columns(runs))
    frame["started"] = pd.to_datetime(frame["started"], utc=True, errors="coerce", format="ISO8601")
    metrics = [name for name in frame.columns if name.startswith(("validation.", "test."))]
    return frame.astype(RUN_COLUMNS | dict.fromkeys(metrics, "float64"))


def load_trajectories(path: str | Path) -> pd.DataFrame:
    """One row per run, logged step, replica and task below ``path``; columns: ``TRAJECTORY_COLUMNS``, then ``probe.*``
    and ``method.*``.

    Warns and raises as ``load``.
    """
    runs = [run for _, run in _runs(Path(path))]
    frame = pd.concat([_no_rows(), *(run.trajectory for run in runs)], ignore_index=True)
    rows = [len(run.trajectory) for run in runs]
    for place, name in enumerate(OF_RUN):
        values = pd.Series([_of_run(run)[name] for run in runs], dtype=TRAJECTORY_COLUMNS[name])
        frame.insert(place, name, values.repeat(rows).reset_index(drop=True))
    return frame


def _runs(path: Path) -> Iterator[tuple[Path, Run]]:
    if (path / RUN_FILE).is_file():
        folder, key = path.resolve().parent.parent, path.resolve().name
        yield from ((path, run) for _, run in _usable(folder, {key}))
        return
    suites = suites_below(path)
    if not suites:
        raise ValueError(f"expected records below {path}, found none")
    for suite in suites:
        yield from _usable(suite, None)


def _usable(suite: Path, keys: set[str] | None) -> Iterator[tuple[Path, Run]]:
    """The runs of a suite's folder, each with where it lies."""
    for run in read_all(suite, keys):
        try:
            if isinstance(run, Unusable):
                raise DamagedRecordError(run.reason)
            place = run_folder(suite, run.record.key)
            yield place if place.exists() else suite, _typed(run)
        except DamagedRecordError as error:
            warnings.warn(f"left out: {error}", stacklevel=4)


def _typed(run: Run) -> Run:
    """The run with the types of ``TRAJECTORY_COLUMNS``. Raises DamagedRecordError where a column holds something else."""
    frame = run.trajectory
    types = {name: TRAJECTORY_COLUMNS[name] for name in COLUMNS} | dict.fromkeys(run.further_columns, "float64")
    other = {name: kind for name, kind in types.items() if str(frame[name].dtype) != kind}
    try:
        return Run(run.record, frame.astype(other)) if other else run
    except (TypeError, ValueError) as error:
        raise DamagedRecordError(f"{run.record.key}: {TRAJECTORY_FILE}: {one_line(error)}") from error


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=TRAJECTORY_COLUMNS[name]) for name in COLUMNS})


def _columns(runs: list[tuple[Path, Run]]) -> list[str]:
    """The fixed columns, then those that some run has, in the order of first sight."""
    further = dict.fromkeys(name for _, run in runs for name in _further(run))
    return [*RUN_COLUMNS, *sorted(further, key=lambda name: PREFIXES.index(name.partition(".")[0]))]


def _further(run: Run) -> dict[str, Any]:
    record = run.record
    # Of a run that failed before its hyperparameters were known, those that were planned as a value.
    used = record.resolved or record.run.weighter.hyperparameters
    found = {f"hp.{name}": value for name, value in used.items() if record.resolved or value != "auto"}
    for split, metrics in sorted(record.metrics.items(), reverse=True):
        found |= {f"{split}.{name}": value for name, value in metrics.items()}
    return found | {f"version.{name}": value for name, value in record.versions.items()}


def _of_run(run: Run) -> dict[str, Any]:
    record = run.record
    values = (record.key, record.suite, run.problem, run.label, record.run.role, run.seed)
    return dict(zip(OF_RUN, values, strict=True))


def _row(folder: Path, run: Run) -> dict[str, Any]:
    record, spec = run.record, run.record.run
    costs = {} if record.costs is None else record.costs.model_dump()
    chosen = record.selection
    return {
        **_of_run(run),
        "weighter": spec.weighter.name,
        "state": record.state,
        "reason": record.reason or "",
        "tasks": list(record.tasks),
        "selection_rule": spec.training.selection,
        "selected_step": pd.NA if chosen is None else chosen.step,
        "flags": [flag.name for flag in record.flags],
        "num_parameters": record.num_parameters,
        "commit": record.commit or "",
        "started": record.started,
        "folder": str(folder),
        **costs,
        **{f"training.{name}": value for name, value in spec.training.model_dump().items()},
        **_further(run),
    }
