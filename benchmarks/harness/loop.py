"""The loop engine: trains one run, step by step, and is the reference for any other engine.

A step is ``Loop._step`` and reads like plain PyTorch. Everything around it (logging, evaluation, checkpoints) is timed
apart, so that a method is charged for its step alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.base import Batch, Data, Evaluation, Problem, Training, to_device
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.gradients import SharedLayerNorms, gramian
from benchmarks.harness.optimizer import make_optimizer, set_lr
from benchmarks.harness.selection import Selector
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.harness.trajectory import Trajectory
from benchmarks.harness.watch import Watch
from benchmarks.record import Costs, Fingerprints, Flag, Selection
from weighting import Needs, Observation, Weighter

CHECKPOINT_SECONDS = 5.0
"""Least time between two checkpoints of a run."""

FINGERPRINT_BATCHES = 3


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """The run was asked to stop; its checkpoint is written."""


class Diverged(Exception):  # noqa: N818 - an outcome, recorded as a row
    """A loss or a weight is not finite any more."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


@dataclass(frozen=True)
class Outcome:
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
    should_stop            asked after every block; True: write the checkpoint and raise ``Stopped``
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
        self.optimizer = make_optimizer(self.model, training)
        self.checkpoint, self.on_log, self.should_stop = checkpoint, on_log, should_stop
        self.norms = SharedLayerNorms(problem, self.model) if Needs.GRAD_NORMS in weighter.needs else None
        self.step = 0
        self.resumed = 0
        self.trajectory = Trajectory(problem)
        self.extra_forwards = self.extra_backwards = 0
        self.stopwatch = Stopwatch(device)
        self.selector = Selector(training, self.model, lambda: self._measure("test"))
        self.initial_val_losses: Tensor | None = None
        self.block_start = 0
        self.totals: list[Tensor] = []
        self.watch = Watch()
        self.given: list[Tensor] = []
        self.present: list[Tensor | None] = []
        self.gradient_norms: list[Tensor] = []

    # ---- the run -------------------------------------------------------------------------------------------------

    def fingerprints(self) -> Fingerprints:
        """What must agree between the runs of a comparison."""
        batches = [self.data.train_batch(step) for step in range(FINGERPRINT_BATCHES)]
        batches.append(self.data.validation_batch(0))
        tensors = [tensor for batch in batches for _, tensor in sorted(batch.items())]
        return Fingerprints(
            initial_parameters=self.initial_parameters, data=self.data.fingerprint, data_order=hash_tensors(tensors)
        )

    def run(self) -> Outcome:
        """Train to the end, from the checkpoint where there is one. Raises Diverged, Stopped, StorageError."""
        if not self._resume():
            self.begin()
        saved_at = time.monotonic()
        while self.step < self.training.steps:
            self._block()
            if self.step % self.training.evaluate_every == 0 or self.step == self.training.steps:
                self._evaluate()
            stop = self.should_stop()
            if self.checkpoint is not None and (stop or time.monotonic() - saved_at >= CHECKPOINT_SECONDS):
                self.save()
                saved_at = time.monotonic()
            if stop:
                raise Stopped
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
        self.block_start, self.totals = first, []
        self.given, self.present, self.gradient_norms = [], [], []
        with self.stopwatch.block(end - first):
            seen = [self.train_step()]
            while self.step < end:
                seen.append(self.train_step())
        self.watch.look(self.given, self.present, self.gradient_norms, training.grad_clip)
        self.trajectory.fill("train_loss", seen[0][0])
        self.trajectory.fill("weight", seen[0][1])
        if self.bad_step is not None:
            raise Diverged(self.bad_step, self._why(*seen[self.bad_step - first]))
        per_task = seen[-1][0].reshape(-1, self.problem.num_tasks).mean(0).tolist()
        self.on_log(self.step, dict(zip(self.problem.tasks, per_task, strict=True)))

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Make the next step. Returns the detached raw losses and the weights, both ``(*batch_shape, K)``."""
        result = self._step(to_device(self.data.train_batch(self.step), self.device))
        self.step += 1
        return result

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        wanted = self.weighter.wants()
        asks_norms = Needs.GRAD_NORMS in wanted
        if asks_norms and self.norms is not None:
            self.norms.arm()
        losses = self.problem.losses(self.model, batch)
        seen = Observation(losses=losses, counts=self.problem.present(batch))
        if Needs.GRAMIAN in wanted:
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            seen = seen.with_(gramian=gramian(losses, parameters, len(self.problem.batch_shape)))
            self.extra_backwards += self.problem.num_tasks
        self.given.append(self.weighter.weights(seen))
        self.present.append(seen.present)
        weights = self._normalize(self.given[-1])
        norms = self._norms_before(losses, weights) if asks_norms else None
        if Needs.VAL_LOSSES_BEFORE_STEP in wanted:
            seen = seen.with_(val_losses_before=self._validation_losses()[0])

        total = (weights * losses).sum()
        self.totals.append(total.detach())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self.training.grad_clip is not None:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.training.grad_clip)
            self.gradient_norms.append(norm)
        if self.training.lr_schedule != "constant":
            set_lr(self.optimizer, self.training, self.step)
        self.optimizer.step()

        if asks_norms:
            if norms is None and self.norms is not None:
                norms = self.norms.after_backward(weights)
            seen = seen.with_(grad_norms=norms)
        self.weighter.update(seen if wanted is Needs.NOTHING else self._look_after(seen, batch, wanted))
        return losses.detach(), weights

    def _look_after(self, seen: Observation, batch: Batch, wanted: Needs) -> Observation:
        """The observation with the losses that the method wants to see under the model after the step."""
        with torch.no_grad():
            if Needs.LOSSES_AFTER_STEP in wanted:
                seen = seen.with_(losses_after=self.problem.losses(self.model, batch))
                self.extra_forwards += 1
            if Needs.VAL_LOSSES in wanted:
                losses, present = self._validation_losses()
                seen = seen.with_(val_losses=losses, val_counts=present)
        return seen

    @torch.no_grad()
    def _validation_losses(self) -> tuple[Tensor, Tensor | None]:
        """Losses of this step's validation mini-batch under the model as it is, and which tasks it contains."""
        validation = to_device(self.data.validation_batch(self.step), self.device)
        self.extra_forwards += 1
        return self.problem.losses(self.model, validation), self.problem.present(validation)

    def _norms_before(self, losses: Tensor, weights: Tensor) -> Tensor | None:
        if self.norms is None:
            raise RuntimeError(f"{self.weighter.name}: expected `needs` to cover what `wants` asks for")
        return self.norms.before_backward(losses, weights)

    def _normalize(self, weights: Tensor) -> Tensor:
        if self.training.normalize == "none":
            return weights
        target = 1 if self.training.normalize == "sum_to_one" else self.problem.num_tasks
        return weights * (target / weights.sum(-1, keepdim=True))

    # ---- around the steps ----------------------------------------------------------------------------------------

    def _start_weighter(self) -> None:
        """Show the weighter the losses of the first batch and, if it needs them, of the whole validation split."""
        batch = to_device(self.data.train_batch(0), self.device)
        with torch.no_grad():
            first = Observation(losses=self.problem.losses(self.model, batch), counts=self.problem.present(batch))
        if Needs.VAL_LOSSES in self.weighter.needs and self.initial_val_losses is not None:
            first = first.with_(val_losses=self.initial_val_losses.to(self.device))
        self.weighter.start(first)

    def _evaluate(self) -> None:
        """Measure the whole validation split and show it to the selection rule."""
        result = self._measure("validation")
        if not bool(torch.isfinite(result.losses).all()):
            raise Diverged(self.step, "validation " + self._why(result.losses, torch.ones_like(result.losses)))
        if self.initial_val_losses is None:
            self.initial_val_losses = result.losses
        self._open_row()
        self.trajectory.fill("val_loss", result.losses)
        self.selector.look(self.step, result, self.initial_val_losses)

    def _measure(self, split: Any) -> Evaluation:
        self.model.eval()
        with torch.no_grad():
            batches = (to_device(batch, self.device) for batch in self.data.batches(split))
            result = self.problem.evaluate(self.model, batches)
        self.model.train()
        return result

    def _open_row(self) -> None:
        self.trajectory.open_row(self.step, lambda: self.problem.probe(self.model))

    @property
    def bad_step(self) -> int | None:
        """The first step of this block whose total was not finite; None: there was none."""
        if not self.totals:
            return None
        finite = torch.stack(self.totals).isfinite().tolist()
        return None if all(finite) else self.block_start + finite.index(False)

    def _why(self, losses: Tensor, weights: Tensor) -> str:
        parts = []
        for what, tensor in (("loss", losses), ("weight", weights)):
            bad = ~torch.isfinite(tensor).reshape(-1, self.problem.num_tasks).all(0)
            parts += [
                f"{what} of {task} is not finite" for task, is_bad in zip(self.problem.tasks, bad, strict=True) if is_bad
            ]
        return "; ".join(parts) or "the weighted total is not finite"

    def _score(self) -> Outcome:
        """Score the model that the selection rule chose."""
        return Outcome(*self.selector.scores(), self._costs())

    def _costs(self) -> Costs:
        backwards = self.extra_backwards + (self.norms.extra_backwards if self.norms else 0)
        memory = torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else None
        return Costs(
            seconds_per_step=self.stopwatch.seconds_per_step,
            train_seconds=self.stopwatch.total_seconds,
            extra_forwards=self.extra_forwards / self.training.steps,
            extra_backwards=backwards / self.training.steps,
            peak_memory_mb=memory,
        )

    def flags(self, not_finite: str | None) -> tuple[Flag, ...]:
        """What a reader of the run's numbers has to know. ``not_finite``: why the run diverged, if it did."""
        return (*self.watch.flags(self.weighter, self.training, not_finite), *self.stopwatch.flags())

    # ---- stop and go on ------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint. Raises StorageError."""
        if self.checkpoint is None:
            raise RuntimeError("expected a place for checkpoints, found none")
        self.checkpoint.save(
            {
                "step": self.step,
                "resumed": self.resumed,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "weighter": self.weighter.state_dict(),
                "selector": self.selector.state_dict(),
                "initial_val_losses": self.initial_val_losses,
                "trajectory": self.trajectory.state_dict(),
                "watch": self.watch.seen,
                "stopwatch": self.stopwatch.state_dict(),
                "extra": (self.extra_forwards, self.extra_backwards, self.norms.extra_backwards if self.norms else 0),
            }
        )

    def _resume(self) -> bool:
        state = self.checkpoint.load(self.device) if self.checkpoint is not None else None
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.weighter.load_state_dict(state["weighter"])
        self.step, self.resumed = state["step"], state["resumed"] + 1
        self.selector.load_state_dict(state["selector"])
        self.initial_val_losses = state["initial_val_losses"].cpu()
        self.trajectory.load_state_dict(state["trajectory"])
        self.watch.seen = state["watch"]
        self.stopwatch.load_state_dict(state["stopwatch"])
        self.extra_forwards, self.extra_backwards, norm_passes = state["extra"]
        if self.norms is not None:
            self.norms.extra_backwards = norm_passes
        return True


def _next_multiple(number: int, of: int) -> int:
    return (number // of + 1) * of


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """16 hexadecimal digits of the hash of the tensors' bytes, shapes and types."""
    digest = hashlib.sha256()
    for tensor in tensors:
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
