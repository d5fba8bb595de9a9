"""The contract of a problem: tasks, data, model, one loss per task, metrics. No problem knows a weighter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
"""What one step trains on or one evaluation reads: named tensors."""

Split = Literal["train", "validation", "test"]


DATA_RULE = "data(seed, training) must not depend on self.tasks: draw those of all tasks, and let losses() pick its own"
"""What to change where a single-task run has other data than the runs it is held against."""


def _as_names(value: object) -> object:
    """One name or a list of them, as suites and records have them."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class Training(BaseModel):
    """Training settings of a run. A problem gives its defaults; a suite may change any of them. All enter the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(ge=1)
    batch_size: int = Field(default=1, ge=1)
    """Examples in a training batch; for problems with a batch per task, examples of each task."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches into which the batch of a step is split, to save memory. Losses, weights and parameters are those of the
    whole batch, up to rounding and unless the model works on statistics of the batch it is shown."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Of SGD; Adam ignores it."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """``cosine`` falls from ``lr`` to a tenth of it over the run, ``linear`` in a straight line to 0."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate first rises in a straight line to ``lr``; the schedule begins after them."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the total gradient; none: no clipping."""
    acts_on: Literal["all", "shared"] | None = None
    """Which parameters the weighted total trains under methods that ask for the gradients of all tasks: all, or the shared
    ones, while what belongs to some tasks alone is trained by the plain sum of their losses; none: as the method says."""
    shared_layer: Annotated[tuple[str, ...] | None, BeforeValidator(_as_names)] = None
    """Names of the modules at which gradient norms are measured, as in ``model.named_modules()``; none: the problem's."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch. They decide in which order numbers are added, and so their last digits."""
    normalize: Literal["none", "sum_to_one", "sum_to_num_tasks"] = "none"
    """What every method's weights are rescaled to before they are used; the same for all methods of a suite."""
    log_every: int = Field(default=10, ge=1)
    """Steps between logged rows of losses and weights."""
    probes: bool = False
    """Whether the logged rows hold the numbers inside the method too (``Weighter.probes``)."""
    validation_batches: int = Field(default=1, ge=1)
    """Validation mini-batches, each as large as a training batch, of which a method sees the mean losses at a step."""
    evaluate_every: int = Field(default=50, ge=1)
    """Steps between evaluations on the whole validation split."""
    selection: str = "best_validation"
    """Which model is scored: ``best_validation``, ``last``, ``mean_of_last_<k>`` or ``oracle_on_test``.

    See ``benchmarks.harness.selection``.
    """

    patience: int | None = Field(default=None, ge=1)
    """Training stops after so many evaluations in a row that the selection rule did not choose; none: it never does."""

    @property
    def averaged_evaluations(self) -> int | None:
        """The k of ``mean_of_last_<k>``; None with another rule."""
        number = self.selection.removeprefix("mean_of_last_")
        return int(number) if number != self.selection else None

    @field_validator("selection")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        number = rule.removeprefix("mean_of_last_")
        averages = number != rule and number.isdecimal() and int(number) > 0
        if rule not in ("best_validation", "last", "oracle_on_test") and not averages:
            raise ValueError("expected best_validation, last, mean_of_last_<k> with k >= 1 or oracle_on_test")
        return rule

    @model_validator(mode="after")
    def _enough_evaluations(self) -> Training:
        found = -(-self.steps // self.evaluate_every)
        if self.averaged_evaluations is not None and self.averaged_evaluations > found:
            raise ValueError(f"{self.selection}: expected as many evaluations after the start, found {found}")
        return self

    @model_validator(mode="after")
    def _rule_that_chooses(self) -> Training:
        if self.patience is not None and self.selection not in ("best_validation", "oracle_on_test"):
            raise ValueError(f"patience: expected selection best_validation or oracle_on_test, found {self.selection}")
        return self


@dataclass(frozen=True)
class Metric:
    """A number that people read, with its direction."""

    name: str
    """In the field's words: ``accuracy``, ``perplexity``."""
    task: str | None
    """The task it judges; None: the whole model, and then no part of Delta-m."""
    higher_is_better: bool
    primary: bool = True
    """Whether it enters Delta-m and the mean rank: False for a second view of the same quantity."""

    @property
    def key(self) -> str:
        """``task/name``, or ``name`` where it judges the whole model."""
        return self.name if self.task is None else f"{self.task}/{self.name}"


@dataclass(frozen=True)
class Evaluation:
    """The model on one split."""

    losses: Tensor
    """``(*batch_shape, K)``, mean over the split, on the CPU."""
    metrics: dict[str, float]
    """Metric key -> value, one for every metric of the problem."""


@dataclass(frozen=True)
class Landscape:
    """The mean loss over a plane, for a picture of the paths of a problem whose parameters are two numbers."""

    axes: tuple[str, str]
    """The probes that say where a replica is: across, upwards."""
    places: Tensor
    """``(n,)`` along either axis."""
    losses: Tensor
    """``(n, n)``: row i is ``places[i]`` upwards."""
    front: Tensor
    """``(m, 2)`` places of the Pareto front, in order."""


class Data(ABC):
    """The data of one seed and one set of training settings. ``train_batch`` and ``validation_batch`` are pure functions."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps in which the training split (for unequal tasks: the largest) is seen once."""

    @property
    @abstractmethod
    def num_validation_batches(self) -> int:
        """How many validation mini-batches there are before they repeat."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the content of all splits: equal data, equal string, in every process."""

    @abstractmethod
    def train_batch(self, step: int) -> Batch:
        """The batch of a step, for any step >= 0; the same for every weighter."""

    @abstractmethod
    def validation_batch(self, index: int) -> Batch:
        """A mini-batch of the validation split, as large as a training batch; indices wrap around."""

    @abstractmethod
    def batches(self, split: Split) -> Iterator[Batch]:
        """The whole split once, in a fixed order."""


class Problem(ABC):
    """The yardstick: what is learned, from what, by which model, and how it is judged.

    A problem gives the class attributes and the abstract methods below. It is light to create: data are loaded by
    ``data``. Options are keyword arguments with defaults and a type; ``tasks`` selects and orders the tasks to train,
    so that a single-task run is the same problem with one task: same model, same initial parameters, same data for
    that task in the same order.

    Raises ValueError on unknown tasks.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Part of the key of every recorded run: it changes when the numbers change, those of ``training`` included."""
    all_tasks: ClassVar[tuple[str, ...]]
    default_tasks: ClassVar[tuple[str, ...] | None] = None
    """The tasks trained when none are chosen; None: all of them."""
    training: ClassVar[Training]
    splits: ClassVar[str]
    """One sentence on where train, validation and test come from."""
    batch_shape: ClassVar[tuple[int, ...]] = ()
    """Shape of independent replicas trained as one batch; the losses are ``(*batch_shape, K)``."""
    heavy_modules: ClassVar[tuple[str, ...]] = ()
    """Modules that are slow to import and that every run needs: imported once, before the workers are forked."""
    rows_belong_to_tasks: ClassVar[bool] = False
    """True: the rows (leading dimension) of the shared layer's input are K equal, consecutive groups, one for each task."""

    saves_memory: ClassVar[str] = "a smaller training.batch_size, or training.accumulate above 1"
    """What to try where a run is out of memory, in words."""
    small: ClassVar[Mapping[str, Any]] = {}
    """Options with which the problem is quick to check; no run uses them."""

    def __init__(self, *, tasks: Sequence[str] | None = None) -> None:
        chosen = tuple(tasks) if tasks is not None else (self.default_tasks or self.all_tasks)
        if not chosen:
            raise ValueError(f"{self.name}: expected at least one task, found none")
        for task in chosen:
            if task not in self.all_tasks:
                raise ValueError(f"{self.name}: expected tasks among {', '.join(self.all_tasks)}, found {task!r}")
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"{self.name}: expected every task once, found {', '.join(chosen)}")
        self.tasks = chosen

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.tasks)

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the chosen tasks, then those of the whole model."""

    @abstractmethod
    def data(self, seed: int, training: Training) -> Data:
        """Load or draw all splits. The same seed gives the same bytes in every process."""

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A new model with the initial parameters of this seed, the same whatever tasks are chosen."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """``(*batch_shape, K)`` mean loss per task, with graph; a pure function of model and batch."""

    @abstractmethod
    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Mean losses and all metrics over the batches. Called without gradients, in evaluation mode."""

    @abstractmethod
    def shared_layer(self, model: nn.Module) -> nn.Module | Sequence[nn.Module]:
        """The last module, or modules, whose parameters all tasks share: gradient norms are measured there.

        All trained parameters below them count. With ``batch_shape`` they carry the replicas as leading dimensions.
        """

    def shared_parameters(self, model: nn.Module) -> Sequence[Tensor] | None:
        """The parameters over which the gradients of tasks are compared, for Gramians.

        None: all that every task's loss reaches, as is seen of the first batches.
        """
        return None

    def task_rows(self, batch: Batch) -> Sequence[Batch] | None:
        """For each task the rows of the batch that are its own; ``losses`` of these sum to the task's loss in the batch.

        None: rows belong to several tasks.
        """
        return None

    def counts(self, batch: Batch) -> Tensor | None:
        """Over how many units (tokens, pixels, examples) each task's mean loss is taken, ``(*batch_shape, K)``.

        0: the batch lacks the task, and its loss means nothing. A bool mask will do. None: over all rows of the batch.
        """
        return None

    def micro_batches(self, batch: Batch, number: int) -> Sequence[Batch]:
        """The batch in so many parts, as equal as can be: cut along the leading dimension of every tensor.

        A problem whose leading dimension is something else than examples cuts otherwise. Raises ValueError where there are
        fewer rows than parts.
        """
        rows = min((len(tensor) for tensor in batch.values()), default=number)
        if rows < number:
            raise ValueError(f"{self.name}: expected at least {number} rows to make {number} micro-batches, found {rows}")
        parts = {name: tensor.tensor_split(number) for name, tensor in batch.items()}
        return [{name: split[place] for name, split in parts.items()} for place in range(number)]

    def files(self) -> dict[str, Path]:
        """Option (or ``option.part``) -> file or folder that it names: runs are known by what lies there."""
        return {}

    def probe(self, model: nn.Module) -> dict[str, Tensor]:
        """Further numbers worth a curve, logged with the losses: name -> ``(*batch_shape,)``."""
        return {}

    @classmethod
    def landscape(cls) -> Landscape | None:
        """What the paths of its ``probe`` are drawn over; None where there is no such picture."""
        return None

    def facts(self) -> dict[str, Any]:
        """What the record should say of the origin of the data: corpus hashes, versions. JSON values, after ``data``."""
        return {}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    if device.type == "cpu":
        return batch
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def replicas(batch_shape: Sequence[int]) -> int:
    """How many independent replicas a batch shape holds."""
    return math.prod(batch_shape)
