"""The loop engine: trains one run, step by step, and is the reference for any other engine.

A step is ``Stepper.step`` and reads like plain PyTorch. Everything around it (logging, evaluation, checkpoints) is timed
apart, so that a method is charged for its step alone.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.contract import Data, Evaluation, Problem, Training, to_device
from benchmarks.harness.checkpoint import Checkpoint, trained_state
from benchmarks.harness.diagnostics import WeightDiagnostics
from benchmarks.harness.randomness import seed_generators, undisturbed
from benchmarks.harness.selection import Selector
from benchmarks.harness.step import Stepper, StepResult
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.harness.trajectory import Trajectory
from benchmarks.records.schema import (
    OF_METHOD,
    OF_PROBLEM,
    Costs,
    Fingerprints,
    Flag,
    Selection,
    TaskGradientsUsed,
)
from weighting import Needs, Weighter

CHECKPOINT_SECONDS = 5.0
"""Least time between two checkpoints of a run."""
CHECKPOINT_SHARE = 0.05
"""Most of a run's time that its checkpoints may take, whatever the size of the model."""

FINGERPRINT_BATCHES = 3


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """The run was asked to stop; its checkpoint is written."""


class DivergedError(Exception):
    """A loss or a weight is not finite any more."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


@dataclass(frozen=True)
class RunResult:
    """What a trained run leaves for its record."""

    selection: Selection
    validation: dict[str, float]
    test: dict[str, float]
    costs: Costs


class Loop:
    """One run of one problem under one weighter.

    model, weighter, data  as for the run, on ``device``
    checkpoint             where the state is kept while the run is unfinished; None: nowhere
    on_log                 called after every logged block of steps with (steps done, raw losses by task)
    should_stop            asked after every block; True: write the checkpoint and raise ``StopRequested``
    """

    def __init__(
        self,
        problem: Problem,
        data: Data,
        weighter: Weighter,
        training: Training,
        seed: int,
        *,
        device: torch.device,
        checkpoint: Checkpoint | None = None,
        on_log: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.problem, self.data, self.training, self.device = problem, data, training, device
        self.model = problem.model(seed)
        self.initial_parameters = hash_tensors(self.model.state_dict().values())
        self.model.to(device)
        self.weighter = weighter.to(device)
        self.stepper = Stepper(problem, data, self.model, self.weighter, training, seed, device)
        self.checkpoint, self.on_log, self.should_stop = checkpoint, on_log, should_stop
        self.seed = seed
        self.step = 0
        self.resumed = 0
        self.trajectory = Trajectory(problem)
        self.stopwatch = Stopwatch(device)
        self.selector = Selector(training, self.model, lambda: self._measure("test"))
        self.initial_val_losses: Tensor | None = None
        self.block_start = 0
        self.block: list[StepResult] = []
        self.diagnostics = WeightDiagnostics(problem.tasks)

    # ---- the run -------------------------------------------------------------------------------------------------

    def fingerprints(self) -> Fingerprints:
        """What must agree between the runs of a comparison."""
        batches = [self.data.train_batch(step) for step in range(FINGERPRINT_BATCHES)]
        batches.append(self.data.validation_batch(0))
        tensors = [tensor for batch in batches for _, tensor in sorted(batch.items())]
        return Fingerprints(
            initial_parameters=self.initial_parameters, data=self.data.fingerprint, data_order=hash_tensors(tensors)
        )

    def run(self) -> RunResult:
        """Train to the end, from the checkpoint where there is one. Raises DivergedError, StopRequested, StorageError."""
        if not self._resume():
            self.begin()
        saved_at, took = time.monotonic(), 0.0
        while self.step < self.training.steps and not self.selector.exhausted:
            self._block()
            if self.step % self.training.evaluate_every == 0 or self.step == self.training.steps:
                self._evaluate()
            stop = self.should_stop()
            passed = time.monotonic() - saved_at
            if self.checkpoint is not None and (stop or passed >= max(CHECKPOINT_SECONDS, took / CHECKPOINT_SHARE)):
                took = self.save()
                saved_at = time.monotonic()
            if stop:
                raise StopRequested
        self._log_probes()
        return self._score()

    def begin(self) -> None:
        """What comes before the first step: the initial validation losses, and the weighter's look at them."""
        self._evaluate()
        self._start_weighter()

    def _block(self) -> None:
        """Train to the next step that is logged or evaluated, timed as a whole; then log the first of these steps."""
        first, training = self.step, self.training
        end = min(_next_multiple(first, training.log_every), _next_multiple(first, training.evaluate_every), training.steps)
        self._open_row()
        self._log_probes()
        self.block_start, self.block = first, []
        self.stepper.health.clear()
        with self.stopwatch.block(end - first):
            while self.step < end:
                self.train_step()
        self.diagnostics.observe(self.block, training.grad_clip)
        self._log(self.block[0])
        if self.bad_step is not None:
            raise DivergedError(self.bad_step, self._why(self.block[self.bad_step - first]))
        per_task = self.block[-1].losses.reshape(-1, self.problem.num_tasks).mean(0).tolist()
        self.on_log(self.step, dict(zip(self.problem.tasks, per_task, strict=True)))

    def train_step(self) -> StepResult:
        """Make the next step."""
        result = self.stepper.step(self.step)
        self.block.append(result)
        self.step += 1
        return result

    def _log(self, result: StepResult) -> None:
        absent = result.absent
        self.trajectory.fill("train_loss", result.losses.masked_fill(absent, math.nan))
        self.trajectory.fill("weight", result.weights.masked_fill(absent, math.nan))
        if result.counts is not None:
            self.trajectory.fill("count", result.counts)

    def _log_probes(self) -> None:
        """The numbers inside the method of which this row's weights are made; in the last row, those at the end."""
        if self.training.probes:
            with undisturbed(self.model, self.device, evaluation=False):
                self.trajectory.fill_probes(OF_METHOD, self.weighter.probes())

    # ---- around the steps ----------------------------------------------------------------------------------------

    def _start_weighter(self) -> None:
        """Show the weighter the losses of the first batch and, if it needs them, of the whole validation split."""
        first = self.stepper.first_losses()
        if Needs.VAL_LOSSES in self.weighter.needs and self.initial_val_losses is not None:
            first = first.replace(val_losses=self.initial_val_losses.to(self.device))
        self.weighter.start(first)

    def _evaluate(self) -> None:
        """Measure the whole validation split and show it to the selection rule."""
        result = self._measure("validation")
        if not bool(torch.isfinite(result.losses).all()):
            raise DivergedError(self.step, "validation " + self._not_finite("loss", result.losses))
        if self.initial_val_losses is None:
            self.initial_val_losses = result.losses
        self._open_row()
        self.trajectory.fill("val_loss", result.losses)
        self.selector.look(self.step, result, self.initial_val_losses)

    def _measure(self, split: Any) -> Evaluation:
        with undisturbed(self.model, self.device, evaluation=True):
            seed_generators(self.device, self.seed, "evaluate", split, self.step)
            batches = (to_device(batch, self.device) for batch in self.data.batches(split))
            return self.problem.evaluate(self.model, batches)

    def _open_row(self) -> None:
        if self.trajectory.open_row(self.step):
            self.trajectory.fill_probes(OF_PROBLEM, self.problem.probe(self.model))

    @property
    def bad_step(self) -> int | None:
        """The first step of this block with a loss, a weight or a total that is not finite; None: there was none."""
        if not self.stepper.health:
            return None
        finite = torch.stack(self.stepper.health).isfinite().tolist()
        return None if all(finite) else self.block_start + finite.index(False)

    def _why(self, result: StepResult) -> str:
        absent = result.absent
        parts = [
            self._not_finite(what, values.masked_fill(absent, 0.0))
            for what, values in (("loss", result.losses), ("weight", result.weights))
        ]
        return "; ".join(part for part in parts if part) or "the weighted total is not finite"

    def _not_finite(self, what: str, values: Tensor) -> str:
        finite = torch.isfinite(values).reshape(-1, self.problem.num_tasks).all(0)
        named = zip(self.problem.tasks, finite, strict=True)
        return "; ".join(f"{what} of {task} is not finite" for task, is_finite in named if not is_finite)

    def _score(self) -> RunResult:
        """Score the model that the selection rule chose."""
        return RunResult(*self.selector.scores(), self._costs())

    def _costs(self) -> Costs:
        stepper, passes = self.stepper, self.stepper.norms.extra_backwards if self.stepper.norms else 0
        backwards = stepper.extra_backwards + passes / self.training.accumulate
        memory = torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else None
        return Costs(
            seconds_per_step=self.stopwatch.seconds_per_step,
            train_seconds=self.stopwatch.total_seconds,
            extra_forwards=stepper.extra_forwards / self.step,
            extra_backwards=backwards / self.step,
            peak_memory_mb=memory,
        )

    @property
    def task_gradients(self) -> TaskGradientsUsed | None:
        """How the gradients of all tasks were had; None: the method does not ask for them."""
        used, validation = self.stepper.task_gradients, self.stepper.validation_passes
        if used is None:
            return None
        return TaskGradientsUsed(
            way=used.way,
            acts_on=used.acts_on,
            compared=sum(parameter.numel() for parameter in used.shared),
            megabytes=used.megabytes,
            validation_way=None if validation is None else validation.way,
        )

    def flags(self, not_finite: str | None) -> tuple[Flag, ...]:
        """What a reader of the run's numbers has to know. ``not_finite``: why the run diverged, if it did."""
        return (*self.diagnostics.flags(self.weighter, self.training, not_finite), *self._early(), *self.stopwatch.flags())

    def _early(self) -> list[Flag]:
        if not self.selector.exhausted or self.step >= self.training.steps:
            return []
        text = f"training stopped at step {self.step} of {self.training.steps}: patience {self.training.patience}"
        return [Flag(name="stopped_early", text=text, steps=self.step)]

    # ---- stop and go on ------------------------------------------------------------------------------------------

    def save(self) -> float:
        """Write the checkpoint. Returns the seconds that it took. Raises StorageError."""
        if self.checkpoint is None:
            raise RuntimeError("expected a place for checkpoints, found none")
        started = time.monotonic()
        self.checkpoint.save(
            {
                "step": self.step,
                "resumed": self.resumed,
                "model": trained_state(self.model),
                "optimizer": self.stepper.optimizer.state_dict(),
                "weighter": self.weighter.state_dict(),
                "selector": self.selector.state_dict(),
                "initial_val_losses": self.initial_val_losses,
                "trajectory": self.trajectory.state_dict(),
                "diagnostics": self.diagnostics.seen,
                "stopwatch": self.stopwatch.state_dict(),
                "extra": self.stepper.extra,
            }
        )
        return time.monotonic() - started

    def _resume(self) -> bool:
        state = self.checkpoint.load(self.device) if self.checkpoint is not None else None
        if state is None:
            return False
        self.model.load_state_dict(state["model"], strict=False)
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.weighter.load_state_dict(state["weighter"])
        self.step, self.resumed = state["step"], state["resumed"] + 1
        self.selector.load_state_dict(state["selector"])
        self.initial_val_losses = state["initial_val_losses"].cpu()
        self.trajectory.load_state_dict(state["trajectory"])
        self.diagnostics.seen = state["diagnostics"]
        self.stopwatch.load_state_dict(state["stopwatch"])
        self.stepper.extra = state["extra"]
        return True


def _next_multiple(number: int, of: int) -> int:
    return (number // of + 1) * of


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """16 hexadecimal digits of the hash of the tensors' bytes, shapes and types."""
    digest = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{str(values.dtype).removeprefix('torch.')}{tuple(values.shape)}".encode())
        # As bytes, since NumPy does not know every type, bfloat16 for one.
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
