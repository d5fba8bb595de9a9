"""The record of a run: ``run.json`` and ``trajectory.parquet`` in a folder of its own, complete or not there at all.

Everything that the suite prints or draws is derived from these two files.

``trajectory.parquet`` has one row per logged step, replica and task:

=============  =======  ==========================================================================================
step           int64    steps trained before this row was measured; the last row has ``step == training.steps``
replica        int32    index of the replica, 0 where a problem has one
task           string   task name
train_loss     float64  raw loss on the batch of this step, before the step; NaN in the last row
val_loss       float64  raw loss on the whole validation split; NaN where it was not measured
weight         float64  coefficient of the raw loss in this step; NaN in the last row
count          float64  units over which the training loss was meaned, as the problem counts them; 0: the batch lacked the
                        task, and its loss and weight are NaN; NaN: the problem does not count, and the task was there
probe.<name>   float64  further numbers of the problem (``Problem.probe``), where it has any
=============  =======  ==========================================================================================
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.base import Training

SCHEMA = 1
RUN_FILE = "run.json"
TRAJECTORY_FILE = "trajectory.parquet"
COLUMNS = ("step", "replica", "task", "train_loss", "val_loss", "weight", "count")

Role = Literal["method", "single_task", "simplex", "trial", "tuned", "frozen"]
"""What a run is for.

``method``: the comparison. ``single_task``: the STL baseline of the only task in ``problem.tasks``. ``simplex``: static
weights, for the Pareto front. ``trial``: one setting on the tuning seed. ``tuned``: the best of a method's trials on the
seeds of the comparison. ``frozen``: static, with the time-averaged weights of the run of the method in ``label``.
"""

State = Literal["finished", "diverged", "crashed", "out_of_memory"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProblemSpec(_Model):
    """Which problem, with every option, defaults included."""

    name: str
    """Listed name, or ``path/to/file.py:Class`` of a problem of the user's own."""
    options: dict[str, Any]
    """All options but ``tasks``."""
    tasks: tuple[str, ...]
    source: str | None = None
    """Hash of the file of a problem of the user's own."""


class WeighterSpec(_Model):
    """Which method, with every hyperparameter, defaults included."""

    name: str
    label: str
    """How tables and pictures call it: the name, with the hyperparameters that tell it from others of the suite."""
    hyperparameters: dict[str, Any]
    """As planned; "auto" where the default depends on the run (``Record.resolved`` has what it came to)."""
    source: str | None = None
    """Hash of the file of a weighter of the user's own."""


class RunSpec(_Model):
    """What a run is. Its key is the hash of exactly this, less the label."""

    problem: ProblemSpec
    weighter: WeighterSpec
    seed: int
    training: Training
    device: str = "cpu"
    """Kind of device, "cpu" or "cuda": numbers and costs are not the same on both."""
    role: Role = "method"

    @property
    def key(self) -> str:
        """16 hexadecimal digits of the hash of everything but the label."""
        content = self.model_dump(mode="json", exclude={"weighter": {"label"}})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Fingerprints(_Model):
    """Runs are compared only where these agree (between runs of the same tasks; ``data`` for all)."""

    initial_parameters: str
    data: str
    data_order: str
    """Hash of the first training and validation batches."""


class MetricInfo(_Model):
    """A metric of the problem: see ``benchmarks.base.Metric``."""

    key: str
    name: str
    task: str | None
    higher_is_better: bool
    primary: bool


class Selection(_Model):
    """Which step was scored on test, and by which rule."""

    rule: str
    step: int


class Costs(_Model):
    """What the run spent. Evaluation, logging and checkpoints are not charged to the method."""

    seconds_per_step: float
    """Median over the steps in which the process did not wait for a processor, see ``benchmarks.harness.stopwatch``."""
    train_seconds: float
    """Sum over all steps."""
    extra_forwards: float
    """Forward passes per step beyond the one on the training batch."""
    extra_backwards: float
    """Partial or whole backward passes per step beyond the one of the weighted total."""
    peak_memory_mb: float | None
    """CUDA: peak of the allocator. CPU: growth of the peak resident set of the run's own process. None where unknown."""


DISTURBED = "timing_disturbed"
"""The flag of a run whose seconds per step say more of the machine than of the method."""


class Flag(_Model):
    """Something about the run that a reader of its numbers has to know: see ``watch`` and ``stopwatch`` of the harness."""

    name: str
    """``never_moved``, ``like_uniform``, ``sum_drifted``, ``negative_weights``, ``guard:<name>``, ``clipped``,
    ``renormalised``, ``not_finite``, ``timing_disturbed``."""
    text: str
    steps: int | None = None
    """In how many steps, where that is known."""


class Record(_Model):
    """``run.json``."""

    schema_version: int = SCHEMA
    key: str
    suite: str
    run: RunSpec
    state: State
    reason: str | None = None
    """Why it did not finish, in one line."""
    failed_step: int | None = None
    tasks: tuple[str, ...]
    metric_infos: tuple[MetricInfo, ...]
    resolved: dict[str, Any]
    """Hyperparameters as they were used."""
    splits: str
    """Where train, validation and test come from."""
    num_parameters: int = 0
    """Trainable parameters of the model."""
    fingerprints: Fingerprints | None = None
    selection: Selection | None = None
    metrics: dict[Literal["validation", "test"], dict[str, float]] = {}
    """Split -> metric key -> value, at the selected step."""
    costs: Costs | None = None
    mean_weights: dict[str, float] | None = None
    """Task -> mean of its weight over all steps in which it was present, and over replicas; a task that never was is not in
    it. None in records that are older than this field."""
    flags: tuple[Flag, ...] = ()
    facts: dict[str, Any] = {}
    """Origin of the data: corpus hashes, versions of what it came from."""
    versions: dict[str, str]
    commit: str | None
    machine: dict[str, Any]
    started: str
    """When its process started, the last one where it was resumed: ISO 8601, UTC."""
    ended: str | None = None
    """When it was recorded: ISO 8601, UTC. None in records that are older than this field."""
    resumed: int = 0
    """How many times the run went on from a checkpoint."""


@dataclass(frozen=True)
class Run:
    """A run read back: its record and its trajectory (columns: see the module)."""

    record: Record
    trajectory: pd.DataFrame

    @property
    def label(self) -> str:
        """The method as tables and pictures call it."""
        return self.record.run.weighter.label

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.record.run.seed

    @property
    def problem(self) -> str:
        """The problem's name."""
        return self.record.run.problem.name


class DamagedRecordError(Exception):
    """A run folder that cannot be used; the message says why, in one line."""


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises DamagedRecordError."""
    try:
        text = (folder / RUN_FILE).read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version")
        if version != SCHEMA:
            raise DamagedRecordError(f"{folder / RUN_FILE}: expected schema_version {SCHEMA}, found {version!r}")
        record = Record.model_validate_json(text)
        trajectory = pd.read_parquet(folder / TRAJECTORY_FILE, page_checksum_verification=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DamagedRecordError(f"{folder / RUN_FILE}: {place}: {first['msg']}") from error
    except (OSError, ValueError, AttributeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedRecordError(f"{folder}: cannot be read: {line}") from error
    if "count" not in trajectory.columns:
        # Records from before batches could lack tasks.
        trajectory["count"] = math.nan
    missing = [column for column in COLUMNS if column not in trajectory.columns]
    if missing:
        raise DamagedRecordError(
            f"{folder / TRAJECTORY_FILE}: expected columns {', '.join(COLUMNS)}, found none of {missing}"
        )
    if record.state == "finished" and trajectory.empty:
        raise DamagedRecordError(f"{folder / TRAJECTORY_FILE}: expected rows of a finished run, found none")
    if folder.name != record.key:
        raise DamagedRecordError(f"{folder / RUN_FILE}: expected key {folder.name}, found {record.key}")
    return Run(record, trajectory)


def write_run(runs_folder: Path, record: Record, trajectory: pd.DataFrame) -> Path:
    """Write a run so that its folder is complete or not there; an older record of the same key is replaced."""
    runs_folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{record.key}-", dir=runs_folder))
    try:
        trajectory.to_parquet(scratch / TRAJECTORY_FILE, index=False, compression="zstd", write_page_checksum=True)
        (scratch / RUN_FILE).write_text(record.model_dump_json(indent=1), encoding="utf-8")
        for name in (TRAJECTORY_FILE, RUN_FILE):
            with (scratch / name).open("rb") as file:
                os.fsync(file.fileno())
        target = runs_folder / record.key
        if target.exists():
            shutil.rmtree(target)
        scratch.chmod(0o755)
        scratch.replace(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return target


def set_aside(folder: Path, reason: str) -> Path:
    """Move an unusable run folder out of the way, with the reason in a file, and return where it went."""
    attic = folder.parent.parent / "set_aside"
    attic.mkdir(parents=True, exist_ok=True)
    number = 0
    while (target := attic / f"{folder.name}-{number}").exists():
        number += 1
    if not folder.is_dir():
        target.mkdir()
        folder.replace(target / folder.name)
    else:
        folder.replace(target)
    (target / "reason.txt").write_text(reason + "\n", encoding="utf-8")
    return target


def run_folders(suite_folder: Path) -> Iterator[Path]:
    """The folders of recorded runs, in the order of their keys."""
    runs = suite_folder / "runs"
    if runs.is_dir():
        yield from sorted(path for path in runs.iterdir() if path.is_dir() and not path.name.startswith("."))
