"""Reading the records of a suite. Nothing here writes, and a damaged record is a line in a list, never an exception."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.records.reading import Unusable, read_all
from benchmarks.records.schema import Run
from benchmarks.records.storage import DamagedRecordError, first_line


@dataclass(frozen=True)
class Loaded:
    """What a suite folder holds."""

    runs: tuple[Run, ...]
    unusable: tuple[Unusable, ...]


def load(suite_folder: Path, keys: Collection[str] | None = None) -> Loaded:
    """All runs of a suite folder, or those with the given keys. A folder that does not exist holds none.

    Raises OSError if the folder of runs itself cannot be listed.
    """
    runs: list[Run] = []
    unusable: list[Unusable] = []
    for found in read_all(suite_folder, keys):
        if isinstance(found, Unusable):
            unusable.append(found)
            continue
        key = found.record.key
        try:
            runs.append(_checked(found))
        except DamagedRecordError as error:
            unusable.append(Unusable(key, str(error)))
        # Pandas raises many kinds of error on columns that nobody would write; a report must survive them all.
        except Exception as error:  # noqa: BLE001
            unusable.append(
                Unusable(key, f"{suite_folder}: {key}: cannot be read: {type(error).__name__}: {first_line(error)}")
            )
    return Loaded(tuple(runs), tuple(unusable))


def _checked(run: Run) -> Run:
    """The run, if its trajectory can be computed with. Raises DamagedRecordError."""
    record, trajectory = run.record, run.trajectory
    for column in ("step", "replica", "train_loss", "val_loss", "weight", "count", *run.further_columns):
        if len(trajectory) and not pd.api.types.is_numeric_dtype(trajectory[column]):
            raise DamagedRecordError(f"{record.key}: expected numbers in column {column}, found {trajectory[column].dtype}")
    if trajectory.duplicated(["step", "replica", "task"]).any():
        raise DamagedRecordError(f"{record.key}: expected one row for a step, replica and task, found several")
    if len(trajectory) and set(trajectory["task"].unique()) != set(record.tasks):
        raise DamagedRecordError(f"{record.key}: expected rows of the tasks {', '.join(record.tasks)}, found others")
    if record.state == "finished" and record.selection is None:
        raise DamagedRecordError(f"{record.key}: expected the selected step of a finished run, found none")
    wanted = [info.key for info in record.metric_infos]
    missing = [key for key in wanted if key not in record.metrics.get("test", {})]
    if record.state == "finished" and missing:
        raise DamagedRecordError(f"{record.key}: expected all test metrics, found no {', '.join(missing)}")
    return run
