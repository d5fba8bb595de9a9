"""The records as data frames: ``benchmarks.load`` for runs, ``benchmarks.load_trajectories`` for their curves.

docs/data.md has the columns with units and types.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.record import RUN_FILE, DamagedRecordError, Run, read_run, run_folders

RUN_COLUMNS = {
    "key": "str", "suite": "str", "problem": "str", "method": "str", "weighter": "str", "role": "str", "seed": "int64",
    "state": "str", "reason": "str", "tasks": "object", "selection_rule": "str", "selected_step": "Int64",
    "seconds_per_step": "float64", "train_seconds": "float64", "extra_forwards": "float64", "extra_backwards": "float64",
    "peak_memory_mb": "float64", "flags": "object", "num_parameters": "int64", "commit": "str",
    "started": "datetime64[us, UTC]", "folder": "str",
}  # fmt: skip
"""Columns that every frame of runs has, in this order, with their types; the others depend on the runs."""
TRAJECTORY_COLUMNS = {
    "key": "str", "suite": "str", "problem": "str", "method": "str", "role": "str", "seed": "int64", "step": "int64",
    "replica": "int32", "task": "str", "train_loss": "float64", "val_loss": "float64", "weight": "float64",
}  # fmt: skip
"""The same for trajectories; columns ``probe.*`` follow where a problem has them."""
OF_RUN = ("key", "suite", "problem", "method", "role", "seed")


def load(path: str | Path) -> pd.DataFrame:
    """One row per run below ``path``: a suite's folder, a folder of suites, or one run.

    Columns: ``RUN_COLUMNS``, then ``hp.<name>`` (hyperparameters as used), ``training.<name>``, ``validation.<metric>`` and
    ``test.<metric>``. A record that cannot be read is left out with a warning. Raises ValueError where there are no records.
    """
    runs = list(_runs(Path(path)))
    frame = pd.DataFrame([_row(folder, run) for folder, run in runs], columns=_columns(runs))
    return frame.astype(RUN_COLUMNS)


def load_trajectories(path: str | Path) -> pd.DataFrame:
    """One row per run, logged step, replica and task below ``path``; columns: ``TRAJECTORY_COLUMNS``, then ``probe.*``.

    Warns and raises as ``load``.
    """
    frames = []
    for _, run in _runs(Path(path)):
        record, frame = run.record, run.trajectory.copy()
        frame["key"], frame["suite"], frame["problem"] = record.key, record.suite, run.problem
        frame["method"], frame["role"], frame["seed"] = run.label, record.run.role, run.seed
        frames.append(frame[[*OF_RUN, *run.trajectory.columns]])
    return pd.concat(frames, ignore_index=True).astype(TRAJECTORY_COLUMNS)


def _runs(path: Path) -> Iterator[tuple[Path, Run]]:
    folders = _folders(path)
    if not folders:
        raise ValueError(f"expected records below {path}, found none")
    for folder in folders:
        try:
            yield folder, read_run(folder)
        except DamagedRecordError as error:
            warnings.warn(f"left out: {error}", stacklevel=3)


def _folders(path: Path) -> list[Path]:
    if (path / RUN_FILE).is_file():
        return [path]
    suites = [path, *sorted(each for each in path.iterdir() if each.is_dir())] if path.is_dir() else []
    return [folder for suite in suites for folder in run_folders(suite)]


def _columns(runs: list[tuple[Path, Run]]) -> list[str]:
    """The fixed columns, then those that some run has, in the order of first sight."""
    further = dict.fromkeys(name for _, run in runs for name in _further(run))
    return [*RUN_COLUMNS, *sorted(further, key=lambda name: PREFIXES.index(name.partition(".")[0]))]


PREFIXES = ("hp", "training", "validation", "test")


def _further(run: Run) -> dict[str, Any]:
    record = run.record
    used = record.resolved or record.run.weighter.hyperparameters
    found = {f"hp.{name}": value for name, value in used.items()}
    found |= {f"training.{name}": value for name, value in record.run.training.model_dump().items()}
    for split, metrics in sorted(record.metrics.items(), reverse=True):
        found |= {f"{split}.{name}": value for name, value in metrics.items()}
    return found


def _row(folder: Path, run: Run) -> dict[str, Any]:
    record, spec = run.record, run.record.run
    costs = {} if record.costs is None else record.costs.model_dump()
    chosen = record.selection
    return {
        "key": record.key,
        "suite": record.suite,
        "problem": run.problem,
        "method": run.label,
        "weighter": spec.weighter.name,
        "role": spec.role,
        "seed": run.seed,
        "state": record.state,
        "reason": record.reason or "",
        "tasks": list(record.tasks),
        "selection_rule": spec.training.selection,
        "selected_step": pd.NA if chosen is None else chosen.step,
        "flags": [flag.name for flag in record.flags],
        "num_parameters": record.num_parameters,
        "commit": record.commit or "",
        "started": pd.Timestamp(record.started),
        "folder": str(folder),
        **costs,
        **_further(run),
    }
