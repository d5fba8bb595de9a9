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
method.<name>  float64  numbers inside the method (``Weighter.probes``), of which the weights of this row are made; in the
                        last row those at the end; where ``training.probes`` asks for them and the method has any
=============  =======  ==========================================================================================
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.base import Training
from benchmarks.catalog import defaults_of
from benchmarks.errors import UNREADABLE

SCHEMA = 2
RUN_FILE = "run.json"
TRAJECTORY_FILE = "trajectory.parquet"
COLUMNS = ("step", "replica", "task", "train_loss", "val_loss", "weight", "count")
OF_PROBLEM, OF_METHOD = "probe.", "method."
"""What the names of further columns begin with."""

Role = Literal["method", "single_task", "simplex", "trial", "tuned", "frozen", "single_task_trial", "single_task_tuned"]
"""What a run is for.

``method``: the comparison. ``single_task``: the STL baseline of the only task in ``problem.tasks``. ``simplex``: static
weights, for the Pareto front. ``trial``: one setting on the tuning seed. ``tuned``: the best of a method's trials on the
seeds of the comparison. ``frozen``: static, with the time-averaged weights of the run of the method in ``label``.
``single_task_trial``, ``single_task_tuned``: the same for the STL baseline of a task.
"""
COMPARED: tuple[Role, ...] = ("method", "single_task")
"""The roles that make a comparison; runs of the others are added to one."""
SINGLE_TASK_ROLES: tuple[Role, ...] = ("single_task", "single_task_trial", "single_task_tuned")
TRIAL_ROLES: tuple[Role, ...] = ("trial", "single_task_trial")
TUNED_ROLES: tuple[Role, ...] = ("tuned", "single_task_tuned")

State = Literal["finished", "diverged", "crashed", "out_of_memory"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProblemSpec(_Model):
    """Which problem, with every option, defaults included."""

    name: str
    """Listed name, or ``path/to/file.py:Class`` of a problem of the user's own."""
    version: int = 1
    """Of the problem's numbers, see ``Problem.version``."""
    options: dict[str, Any]
    """All options but ``tasks``."""
    contents: dict[str, str] = {}
    """Option that names a file or a folder -> hash of what lies there."""
    tasks: tuple[str, ...]
    source: str | None = None
    """Hash of the code of a problem of the user's own: its file, and what it imports from beside it."""


class WeighterSpec(_Model):
    """Which method, with every hyperparameter, defaults included."""

    name: str
    version: int = 1
    """Of the method's numbers, see ``Weighter.version``."""
    label: str
    """How tables and pictures call it: the name, with the hyperparameters that tell it from others of the suite."""
    hyperparameters: dict[str, Any]
    """As planned; "auto" where the default depends on the run (``Record.resolved`` has what it came to)."""
    source: str | None = None
    """Hash of the code of a weighter of the user's own: its file, and what it imports from beside it."""


class RunSpec(_Model):
    """What a run is.

    Its key is made of names, versions, and the settings that differ from their defaults, so that a new hyperparameter with
    the old behaviour as its default leaves the keys of recorded runs as they are. Whoever changes a default or a formula
    changes the ``version``. What is read from a path counts by its content, and a class of the user's own by its source.
    """

    problem: ProblemSpec
    weighter: WeighterSpec
    seed: int
    training: Training
    device: str = "cpu"
    """Kind of device, "cpu" or "cuda": numbers and costs are not the same on both."""
    role: Role = "method"

    @property
    def key(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(as_json(self._content()).encode()).hexdigest()[:16]

    @property
    def conditions(self) -> dict[str, Any]:
        """What must be equal for runs to be compared: all that makes the key but the method, the seed and the role.

        Settings are those that differ from their defaults.
        """
        content = self._content()
        name, version, tasks, contents = content["problem"]
        return {
            "problem": name,
            "version": version,
            "source": content["sources"][0],
            "options": content["options"],
            "contents": contents,
            "tasks": tasks,
            "training": content["training"],
            "device": self.device,
        }

    @property
    def method(self) -> dict[str, Any]:
        """What makes the method another one: name, version, source and changed hyperparameters."""
        content = self._content()
        name, version = content["weighter"]
        return {
            "method": name,
            "version": version,
            "source": content["sources"][1],
            "hyperparameters": content["hyperparameters"],
        }

    def _content(self) -> dict[str, Any]:
        """All that makes the key."""
        problem, weighter, defaults = self.problem, self.weighter, defaults_of(self.problem.name, self.weighter.name)
        named = {option.partition(".")[0] for option in problem.contents}
        options = {name: value for name, value in problem.options.items() if name not in named}
        return {
            "problem": [_short_name(problem.name, problem.source), problem.version, list(problem.tasks), problem.contents],
            "options": _changed(options, defaults.options),
            "weighter": [_short_name(weighter.name, weighter.source), weighter.version],
            "hyperparameters": _changed(weighter.hyperparameters, defaults.hyperparameters),
            "sources": [problem.source, weighter.source],
            "training": _changed(self.training.model_dump(mode="json"), defaults.training),
            "run": [self.seed, self.device, self.role],
        }


def _short_name(name: str, source: str | None) -> str:
    """Of a class of the user's own the class alone: its source says what it is, wherever its file lies."""
    return name if source is None else name.rpartition(":")[2]


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What is not at its default, if it has one."""
    return {
        name: value for name, value in values.items() if name not in defaults or as_json(value) != as_json(defaults[name])
    }


def as_json(value: Any) -> str:
    """Text that is equal for equal settings, whatever the order of their names."""
    # 2 and 2.0 are one setting, and so are a list and a tuple.
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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


class Timing(_Model):
    """When, where and how fast a run was trained once more, as the pair of another; its numbers are those of the record."""

    started: str
    ended: str
    """Both ISO 8601, UTC."""
    seconds_per_step: float
    disturbed: bool
    """Whether it had to wait for a processor, see ``DISTURBED``."""
    machine: dict[str, Any]


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
    timings: tuple[Timing, ...] = ()
    """Of a uniform run: its trainings as the pair of methods that were trained later. Of these only the times are kept."""
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
    trajectory_sha256: str = ""
    """Of the bytes of the trajectory's file."""


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

    @property
    def further_columns(self) -> list[str]:
        """The trajectory's columns of numbers of the problem or the method."""
        return [name for name in self.trajectory.columns if name.startswith((OF_PROBLEM, OF_METHOD))]


IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""What a system says when a folder is to take the place of something that is not an empty folder."""


class DamagedRecordError(Exception):
    """A run folder that cannot be used; the message says why, in one line."""


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises DamagedRecordError if a single byte is not as it was written."""
    try:
        record = _read_record(folder)
        content = (folder / TRAJECTORY_FILE).read_bytes()
        if hashlib.sha256(content).hexdigest() != record.trajectory_sha256:
            raise DamagedRecordError(f"{folder / TRAJECTORY_FILE}: cannot be read: it is not as it was written")
        trajectory = pd.read_parquet(io.BytesIO(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DamagedRecordError(f"{folder / RUN_FILE}: {place}: {first['msg']}") from error
    except UNREADABLE as error:
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


def _read_record(folder: Path) -> Record:
    """``run.json``: a line with the checksum of all that follows, which is the rest of one JSON object."""
    path = folder / RUN_FILE
    content = path.read_bytes()
    first, _, rest = content.partition(b"\n")
    if first != _checksum_line(rest):
        found = schema_version(content)
        if found is not None and found != SCHEMA:
            hint = f"; `run_bench.py migrate {folder.parent.parent}` rewrites older ones" if found == 1 else ""
            raise DamagedRecordError(f"{path}: expected schema_version {SCHEMA}, found {found!r}{hint}")
        raise DamagedRecordError(f"{path}: cannot be read: it is not as it was written")
    record: dict[str, Any] = json.loads(content)
    del record["checksum"]
    if record.get("schema_version") != SCHEMA:
        raise DamagedRecordError(f"{path}: expected schema_version {SCHEMA}, found {record.get('schema_version')!r}")
    return Record.model_validate_json(json.dumps(record))


def schema_version(content: bytes) -> object:
    """What a record says of its form; None where it says nothing."""
    try:
        record = json.loads(content)
    except UNREADABLE:
        return None
    return record.get("schema_version") if isinstance(record, dict) else None


def _checksum_line(rest: bytes) -> bytes:
    return b'{"checksum": "' + hashlib.sha256(rest).hexdigest().encode() + b'",'


def write_run(runs_folder: Path, record: Record, trajectory: pd.DataFrame) -> Path:
    """Write a run so that its folder is complete or not there; an older record of the same key is replaced.

    Of several writers at once the last one's record stays. Raises OSError.
    """
    content = io.BytesIO()
    trajectory.to_parquet(content, index=False, compression="zstd")
    return write_files(runs_folder, record, content.getvalue())


def write_files(runs_folder: Path, record: Record, trajectory: bytes) -> Path:
    """As ``write_run``, with the bytes of the trajectory's file."""
    runs_folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{record.key}-", dir=runs_folder))
    try:
        (scratch / TRAJECTORY_FILE).write_bytes(trajectory)
        record = record.model_copy(update={"trajectory_sha256": hashlib.sha256(trajectory).hexdigest()})
        rest = record.model_dump_json(indent=1).removeprefix("{\n").encode()
        (scratch / RUN_FILE).write_bytes(_checksum_line(rest) + b"\n" + rest)
        for name in (TRAJECTORY_FILE, RUN_FILE):
            with (scratch / name).open("rb") as file:
                os.fsync(file.fileno())
        scratch.chmod(0o755)
        return _replace(runs_folder / record.key, scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _replace(target: Path, scratch: Path) -> Path:
    """Put a complete folder in the place of whatever is there, as often as another writer comes in between."""
    while True:
        place = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent, ignore_cleanup_errors=True)
        with place as old:
            with contextlib.suppress(FileNotFoundError):
                target.replace(Path(old) / target.name)
            try:
                return scratch.replace(target)
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise


def set_aside(folder: Path, reason: str) -> Path:
    """Move an unusable run folder out of the way, with the reason in a file, and return where it went.

    Raises FileNotFoundError where another command was faster.
    """
    attic = folder.parent.parent / "set_aside"
    attic.mkdir(parents=True, exist_ok=True)
    number = 0
    while (target := attic / f"{folder.name}-{number}").exists():
        number += 1
    if folder.is_file():
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
