"""The contract of a loss-weighting method.

Weights are data. At every training step a method answers with one vector: the coefficients w with which the raw task
losses are summed before the backward pass, so that ``w_i = dTotal / dL_i`` exactly. A method sees detached numbers, returns
detached numbers and never touches the autograd graph. It can therefore be replayed from a log, saved half-way, evaluated for
many replicas at once and used in anybody's training loop::

    weighter = weighting.create("dwa", num_tasks=3, window=100)
    weighter.start(Observation(losses=first_losses))
    for batch in batches:
        losses = task_losses(model, batch)                          # (3,), with graph
        now = Observation(losses=losses)
        weighting.total(weighter.weights(now), losses).backward()
        optimizer.step(); optimizer.zero_grad()
        weighter.update(now)

Shapes: every tensor is ``(*batch_shape, K)``. The last dimension holds the K tasks; leading dimensions are independent
replicas of the method.

What a method is shown
    A subclass writes ``weights`` and, where it needs them, ``start``, ``update`` and ``wants``. Whoever calls them may pass
    anything that ``Observation`` takes; what the method is shown is a clean observation: all in the dtype and on the device
    of the state, and tasks without a finite number in it are absent. Absent tasks read as 1 wherever a number is asked for,
    so that no rule of a method ever meets what must not enter its state. ``present`` says which tasks are there.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, cast

import torch
from torch import Tensor

from weighting._checks import check, task_vector
from weighting._cleaning import Clean, answer_dtype, clean, without
from weighting._state import State
from weighting.claim import Claim
from weighting.observation import TRAINING_FIELDS, Field, Needs, Observation, RunFacts, visible

LossesFrom = Literal["training", "validation"]

CLOCK_MARK = 0x5745 << 48
"""The highest bits of a clock that somebody has set: memory that nobody filled does not have them."""
CLOCK_STARTED = 1 << 47
"""The bit that says that the initial losses were seen; the bits below count the updates."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _creating(create: _Function) -> _Function:
    """The state is created on the CPU whatever the default device; the arguments are kept for ``reset``."""

    @functools.wraps(create)
    def created(self: Weighter, *arguments: Any, **hyperparameters: Any) -> None:
        self.__dict__.setdefault("_arguments", (arguments, hyperparameters))
        with torch.device("cpu"):
            create(self, *arguments, **hyperparameters)

    return cast(_Function, created)


def _starting(start: _Function) -> _Function:
    """A clean observation, once."""

    @functools.wraps(start)
    def started(self: Weighter, first: Observation) -> None:
        if isinstance(first, Clean):
            start(self, first)
            return
        seen, left_out = self._clean("start", first)
        if not self._host.started:
            start(self, seen)
            self._count(left_out)
            self.clock.add_(CLOCK_STARTED)
            self._host.started = True

    return cast(_Function, started)


def _answering(weights: _Function) -> _Function:
    """A clean observation; the answer times the prior, in the precision and on the device of the losses."""

    @functools.wraps(weights)
    def answered(self: Weighter, now: Observation) -> Tensor:
        if isinstance(now, Clean):
            return cast(Tensor, weights(self, now))
        seen, _ = self._clean("weights", now)
        found = cast(Tensor, weights(self, seen))
        if self.prior is not None:
            found = found * self.prior
        if now.losses is not None:
            found = found.to(now.losses.device, answer_dtype(now.losses))
        return found

    return cast(_Function, answered)


def _learning(update: _Function) -> _Function:
    """A clean observation; what was not finite in it is counted, and the clock goes on."""

    @functools.wraps(update)
    def updated(self: Weighter, after: Observation) -> None:
        if isinstance(after, Clean):
            update(self, after)
            return
        seen, left_out = self._clean("update", after)
        update(self, seen)
        self._count(left_out)
        self._tick()

    return cast(_Function, updated)


_WRAPPED: Mapping[str, Callable[[Any], Any]] = {
    "__init__": _creating,
    "start": _starting,
    "weights": _answering,
    "own_weights": _answering,
    "update": _learning,
}


class _HostClock:
    """What a method's clock says, known to the host: a step need not wait for a device to ask it."""

    def __init__(self, read_from: Tensor) -> None:
        self.read_from: Tensor | None = read_from
        """The clock that was read last; None: nobody has read it since it was loaded."""
        self.started = False
        self.updates = 0
        self.asked = False
        """Whether the method decides anything by the number of updates."""


REFUSED_LOSS = {"refused_loss": "a loss that the method is not made for: its task counted as absent in that step"}
"""The guard of methods with ``allowed``."""


class Weighter(State, ABC):
    """Base class of all methods: K raw losses in, K coefficients out.

    A method must give ``name`` and ``weights``. It may give ``start``, ``update`` and ``wants`` and set the class
    attributes below. State lives in registered buffers (see ``State``), so that ``.to()``, ``state_dict()``,
    ``load_state_dict()``, copies and pickles work as for any module; it follows the losses to their device.

    Absent tasks (count 0, or a number that is not finite) get weight zero and leave no trace in the state. Weights come
    back in at least float32. No step reads a value from the device of the state.

    num_tasks    K >= 1
    batch_shape  shape of the independent replicas, () for one

    Raises ValueError on hyperparameters outside their range, when the method is created; TypeError on what is no
    observation; RuntimeError if the state is memory that nobody filled, as after loading a model whose checkpoint lacks it.
    """

    name: ClassVar[str]
    variant_of: ClassVar[str | None] = None
    """The method of which this is another reading: tables and pictures put them side by side."""
    version: ClassVar[int] = 1
    """Part of the key of every recorded run: it changes when the numbers change."""
    needs: ClassVar[Needs] = Needs.NOTHING
    answers_from: ClassVar[Literal["state", "losses"]] = "losses"
    """Whether ``weights`` reads this step's losses, or knows its answer before them: "state"."""
    losses_from: ClassVar[LossesFrom] = "training"
    """Whose losses the method learns from; ``create(..., losses_from=...)`` feeds it the other split's."""
    acts_on: ClassVar[Literal["all", "shared"]] = "all"
    """Which parameters the method's paper trains with the weighted total: all, or the shared ones alone, while what belongs
    to one task is trained by that task's own loss, see ``own_weights``. A statement for whoever trains."""
    claims: Claim = Claim.NOTHING
    """Properties that tests check. An instance whose hyperparameters give one up has ``claims`` of its own."""
    adaptive: ClassVar[bool] = True
    """Whether the weights are meant to move during training."""
    guards: ClassVar[Mapping[str, str]] = {
        "not_finite": "a loss or another observed number was not finite, or too large to square: its task counted as absent"
    }
    """Name -> meaning of each special case in which the method has to leave its rule, e.g. 0 / 0; all have the first."""
    search: ClassVar[Mapping[str, Sequence[object]]] = {}
    """The search space of the hyperparameters: the published one, where there is one."""

    clock: Tensor
    guard_counts: Tensor
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    prior: Tensor | None
    """Constants that multiply the method's weights, ``(K,)``; None: ones. Set by ``create(..., prior=...)``."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not isinstance(cls.claims, Claim):
            raise TypeError(f"{cls.__name__}: expected claims such as Claim.NONNEGATIVE, found {cls.claims!r}")
        cls.guards = {name: text for base in reversed(cls.__mro__) for name, text in base.__dict__.get("guards", {}).items()}
        for name, wrap in _WRAPPED.items():
            if name in cls.__dict__:
                setattr(cls, name, wrap(cls.__dict__[name]))

    @_creating
    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.num_tasks: int = check(self.name, "num_tasks", num_tasks, integer=True, ge=1)
        self.batch_shape = tuple(int(check(self.name, "every number of batch_shape", n, integer=True)) for n in batch_shape)
        self.register_buffer("clock", torch.tensor(CLOCK_MARK))
        self.register_buffer("guard_counts", torch.zeros(*self.batch_shape, len(self.guards), dtype=torch.int64))
        self.register_buffer("prior", None)
        self._host = _HostClock(self.clock)

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """Defaults that depend on the run, e.g. a window of one epoch. Explicit hyperparameters win over them."""
        return {}

    @_starting
    def start(self, first: Observation) -> None:
        """Look at the initial losses (and validation losses, if needed) before training. A second call changes nothing."""

    @abstractmethod
    def weights(self, now: Observation) -> Tensor:
        """This step's coefficients of the raw losses: ``(*batch_shape, K)``, no gradient. Changes no state.

        Where the method answers from its state, ``now`` may lack the losses; the answer is then in the dtype of the state.
        """

    @_answering
    def own_weights(self, now: Observation) -> Tensor:
        """Where the weights act on the shared parameters alone, the coefficients of the losses for what belongs to one task.

        Ones, ``(*batch_shape, K)``, unless the method trains something else than the losses, such as their logarithms.
        """
        return self.as_weights(torch.ones((), dtype=self._state_dtype, device=self.clock.device), now)

    def allowed(self, losses: Tensor) -> Tensor:
        """Which losses ``(*batch_shape, K)`` the method is made for, bool; a method that refuses some has REFUSED_LOSS.

        A refused loss raises ValueError where looking at it waits for no device; elsewhere its task counts as absent.
        """
        return torch.ones_like(losses, dtype=torch.bool)

    def refusal(self, losses: Tensor) -> str:
        """What is wrong with losses of which some are not ``allowed``, in words."""
        return f"expected losses of at least 0, found {float(losses.min()):g}"

    def wants(self) -> Needs:
        """Which of its needs the coming step will read; never more than ``needs``."""
        return self.needs

    @_learning
    def update(self, after: Observation) -> None:
        """Learn from the step that was just made."""

    def reset(self) -> None:
        """Start anew: the state of a method just created, on the same device."""
        arguments, hyperparameters = self._arguments
        fresh = type(self)(*arguments, **hyperparameters)
        fresh.prior = self.prior
        fresh.to(device=self.clock.device, dtype=self._state_dtype)
        self.__dict__.update({**fresh.__dict__, "training": self.training, "_arguments": self._arguments})

    def __repr__(self) -> str:
        """On one line, as the call that makes it again."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Number of tasks and every hyperparameter, defaults included; what every method has only where it is set."""
        signature = inspect.signature(type(self).__init__).parameters.items()
        defaults = {name: parameter.default for name, parameter in signature if parameter.default is not parameter.empty}
        shown = {"num_tasks": self.num_tasks, **defaults, **self._arguments[1]}
        if not self.batch_shape:
            shown.pop("batch_shape", None)
        if self.prior is not None:
            shown["prior"] = self.prior.tolist()
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    def probes(self) -> dict[str, Tensor]:
        """Numbers inside the method that are worth a curve: name -> ``(*batch_shape, K)``, or ``(*batch_shape)``.

        Those of which the coming answer is made, as far as the state knows them. Asking changes nothing, and what is given
        is the caller's.
        """
        return {}

    def guards_taken(self) -> dict[str, int]:
        """How often each guard was taken since the start, over all replicas; those never taken are left out."""
        counts = self.guard_counts.reshape(-1, len(self.guards)).sum(0).tolist()
        return {name: count for name, count in zip(self.guards, counts, strict=True) if count}

    def set_prior(self, prior: object) -> None:
        """Multiply all weights by constants, K numbers or one. Raises ValueError on one below 0, or if none is above 0."""
        values = task_vector(self.name, "prior", prior, self.num_tasks)
        for value in values.tolist():
            check(self.name, "every number of prior", value, ge=0)
        check(self.name, "the sum of prior", float(values.sum()), gt=0)
        self.prior = values.to(self.clock.new_empty(0, dtype=self._state_dtype))

    # ---- help for subclasses -------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*batch_shape, K)``."""
        return (*self.batch_shape, self.num_tasks)

    @property
    def num_updates(self) -> int:
        """Updates made so far, the present one not included; known without waiting for a device."""
        self._host.asked = True
        self._read_clock()
        return self._host.updates

    def add_state(self, name: str, value: Tensor | float) -> None:
        """Register state that is saved and moved with the method; a number fills ``(*batch_shape, K)``."""
        tensor = value if isinstance(value, Tensor) else torch.full(self.shape, float(value), dtype=torch.float64)
        self.register_buffer(name, tensor)

    def read(self, seen: Observation, field: Field) -> Tensor:
        """The observed field, with 1 for absent tasks. Raises ValueError if it is missing."""
        value: Tensor | None = getattr(seen, field)
        if value is None:
            raise ValueError(f"{self.name}: expected an observation with {field!r}, found none")
        return value

    def count_guard(self, guard: str, where: Tensor) -> None:
        """Count a guard for the replicas in which it was taken: bool ``(*batch_shape)``."""
        self.guard_counts.select(-1, list(self.guards).index(guard)).add_(where)

    def present(self, seen: Observation, field: Literal["present", "val_present"] = "present") -> Tensor:
        """Which tasks are there: bool ``(*batch_shape, K)``, on the device of the state."""
        value = seen.present if field == "present" else seen.val_present
        return torch.ones(self.shape, dtype=torch.bool, device=self.clock.device) if value is None else value

    def as_weights(self, weights: Tensor, now: Observation) -> Tensor:
        """The weights in full shape, ``(*batch_shape, K)``, a copy, with 0 for absent tasks."""
        if isinstance(now, Clean) and now.complete:
            return weights.expand(self.shape).clone()
        return torch.where(self.present(now), weights, 0.0)

    # ---- what the wrappers need ----------------------------------------------------------------------------------

    def _clean(self, call: str, seen: Observation) -> tuple[Clean, dict[str, Tensor]]:
        """What the method may see, and by guard which tasks were left out: bool ``(*batch_shape, K)``."""
        if not isinstance(seen, Observation):
            raise TypeError(
                f"{self.name}.{call}: expected an Observation, found {type(seen).__name__}; "
                f"pass Observation(losses=...) from `weighting`"
            )
        if not torch.compiler.is_compiling():
            self._read_clock()
        self._follow(seen)
        found, not_finite = clean(self.name, seen, self.shape, self._state_dtype, self.clock.device)
        left_out = {} if not_finite is None else {"not_finite": not_finite}
        if type(self).allowed is not Weighter.allowed:
            for field in ("losses", "losses_after"):
                found = self._without_refused(field, found, left_out)
        return found, left_out

    def _without_refused(self, field: Literal["losses", "losses_after"], seen: Clean, left_out: dict[str, Tensor]) -> Clean:
        """Raise ValueError on losses that the method is not made for, or leave them out where looking would wait."""
        losses: Tensor | None = getattr(seen, field)
        if losses is None:
            return seen
        refused = self.present(seen) & self.allowed(losses).logical_not()
        numbers = visible(refused)
        if numbers is None:
            left_out["refused_loss"] = left_out.get("refused_loss", False) | refused
            return without(seen, refused)
        if any(numbers):
            raise ValueError(f"{self.name}: {self.refusal(losses)}")
        return seen

    def _follow(self, seen: Observation) -> None:
        """Move the state to the device of the losses: they are never copied to the host."""
        first = next((value for name in TRAINING_FIELDS if (value := getattr(seen, name)) is not None), None)
        if first is not None and first.device != self.clock.device:
            self.to(first.device)

    def _count(self, left_out: Mapping[str, Tensor]) -> None:
        for guard, tasks in left_out.items():
            self.count_guard(guard, tasks.any(-1))

    @property
    def _state_dtype(self) -> torch.dtype:
        own = self._buffers.values()
        return next((buffer.dtype for buffer in own if buffer is not None and buffer.is_floating_point()), torch.float64)

    def _tick(self) -> None:
        self.clock.add_(1)
        if torch.compiler.is_compiling() and not self._host.asked:
            # A number that changes at every step would make every step a graph of its own.
            self._host.read_from = None
        else:
            self._host.updates += 1

    def _read_clock(self) -> None:
        """Let the host know the clock, once after somebody else has set it. Raises RuntimeError if nobody has."""
        clock, host = self.clock, self._host
        if clock is host.read_from:
            return
        try:
            number = int(clock)
        except RuntimeError:
            # Batched by vmap, or a fake tensor: the host's own count goes on.
            return
        if number >> 48 != CLOCK_MARK >> 48:
            raise RuntimeError(
                f"{self.name}: expected a state that was created or loaded, found memory that nobody filled, as after "
                "loading a model whose checkpoint lacks this method's state; call reset(), or load its state"
            )
        host.read_from = clock
        host.started, host.updates = bool(number & CLOCK_STARTED), number & (CLOCK_STARTED - 1)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._host.read_from = None
