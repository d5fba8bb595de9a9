"""The record of a run: ``run.json`` and ``trajectory.parquet`` in a folder of its own, complete or not there at all.

Everything that the suite prints or draws is derived from these two files.

``trajectory.parquet`` has one row per logged step, replica and task:

=============  =======  ==========================================================================================
step           int64    steps trained before this row was measured; the last row has ``step == training.steps``
                        where training did not stop early
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

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from benchmarks.catalog import defaults_of
from benchmarks.contract import Training

SCHEMA = 3
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
KEPT_STATES: tuple[State, ...] = ("finished", "diverged")
"""States that a repeated command does not train again: the same run would end the same way."""


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
    """A metric of the problem: see ``benchmarks.contract.Metric``."""

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


class TaskGradientsUsed(_Model):
    """How the gradients of all tasks were had, under a method that asks for them."""

    way: str
    """By which passes, see ``benchmarks.harness.task_gradients``."""
    acts_on: Literal["all", "shared"]
    """Which parameters the weighted total trained; the others were trained by the plain sum."""
    compared: int
    """Over how many trained parameters (numbers) the gradients were compared."""
    megabytes: float
    """What the gradients of all tasks took in a step, those of validation included."""
    validation_way: str | None = None
    """By which passes the gradients of validation were had; None: the method does not ask for them."""


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
    """Something about the run that a reader of its numbers has to know: see ``diagnostics`` and ``stopwatch``."""

    name: str
    """``never_moved``, ``like_uniform``, ``sum_drifted``, ``negative_weights``, ``guard:<name>``, ``clipped``,
    ``renormalised``, ``stopped_early``, ``not_finite``, ``timing_disturbed``."""
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
    task_gradients: TaskGradientsUsed | None = None
    """None under methods that do not ask for them."""
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


Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


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

    def values(self, column: str) -> tuple[Steps, Floats]:
        """A column of the trajectory as an array: steps ``(T,)`` in order and values ``(T, R, K)``, tasks as in the record.

        Steps at which no task has a value (validation between evaluations, weights in the last row) are left out. Made on
        the first call and kept: the arrays cannot be written to. Raises KeyError for a column that the run lacks.
        """
        if column not in self._known_values:
            self._known_values[column] = self._values(column)
        return self._known_values[column]

    @cached_property
    def _known_values(self) -> dict[str, tuple[Steps, Floats]]:
        return {}

    @cached_property
    def _grid(self) -> tuple[Steps, tuple[NDArray[Any], ...], tuple[int, int, int]]:
        """The trajectory's steps ``(T,)``, the place of each of its rows in ``(T, R, K)``, and that shape."""
        tasks = {task: index for index, task in enumerate(self.record.tasks)}
        steps, row = np.unique(self.trajectory["step"].to_numpy(np.int64), return_inverse=True)
        replicas, layer = np.unique(self.trajectory["replica"].to_numpy(np.int64), return_inverse=True)
        task = self.trajectory["task"].map(tasks).to_numpy(np.intp)
        return steps, (row, layer, task), (len(steps), max(1, len(replicas)), len(tasks))

    def _values(self, column: str) -> tuple[Steps, Floats]:
        steps, places, shape = self._grid
        values = np.full(shape, np.nan)
        values[places] = self.trajectory[column].to_numpy(np.float64)
        known = ~np.isnan(values)
        kept = known.any(axis=(1, 2))
        replicas = known.any(axis=(0, 2))
        steps, values = steps[kept], values[kept][:, replicas if replicas.any() else slice(1)]
        for array in (steps, values):
            array.setflags(write=False)
        return steps, values
