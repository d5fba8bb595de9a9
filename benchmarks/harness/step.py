"""One optimizer step of a run, over one or more micro-batches, and the extra forward passes that methods ask for.

All randomness of a forward pass is a function of seed, step and purpose, and an extra pass leaves buffers and generators as
it found them. So a method that asks for more trains the same model as one that does not, and a run that was stopped and
goes on is the same run, with dropout and batch normalization too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch, Data, Problem, Training, to_device
from benchmarks.harness.optimizer import make_optimizer, set_lr
from benchmarks.harness.randomness import seed_generators, undisturbed
from benchmarks.harness.shared_norms import SharedLayerNorms
from benchmarks.harness.task_gradients import TaskGradients, TaskPasses
from weighting import Jacobian, Needs, Observation, TaskLosses, Weighter, total
from weighting.observation import visible

OF_ALL_TASKS = Needs.GRAMIAN | Needs.CROSS_GRAMIAN
"""What is made of the gradients of all tasks."""
SMALLEST_SUM = 1e-6
"""Of weights that are to be rescaled, relative to the sum of their sizes."""


@dataclass(frozen=True)
class StepResult:
    """What a step leaves behind, detached; tensors are ``(*batch_shape, K)`` where nothing else is said."""

    losses: Tensor
    """Raw losses of the whole batch."""
    counts: Tensor | None
    """As the problem counts; None: every task is there."""
    given: Tensor
    """The weights as the method gave them."""
    weights: Tensor
    """The weights as they were used."""
    gradient_norm: Tensor | None
    """Norm of the total gradient before clipping, a scalar; None: it is not clipped."""

    @property
    def absent(self) -> Tensor:
        """Which tasks the batch lacks, bool."""
        return torch.zeros_like(self.losses, dtype=torch.bool) if self.counts is None else self.counts <= 0


@dataclass(frozen=True)
class _Part:
    """A micro-batch, or the whole batch."""

    batch: Batch
    counts: Tensor | None
    share: Tensor | None
    """``(*batch_shape, K)`` the part of each task's units that it holds; None: all of them."""


@dataclass(frozen=True)
class _Passed:
    """What the passes of a step before the optimizer's leave behind: the model's ``.grad``, and this."""

    seen: Observation
    """With the losses of the whole batch."""
    losses: Tensor
    """As the model computes them, where the batch is one part."""
    given: Tensor
    weights: Tensor
    gradients: Jacobian | None = None
    """Of all tasks, before the step, where they are to be compared with those after it."""


class Stepper:
    """Makes the steps of one run. Model and weighter are on ``device``."""

    def __init__(
        self,
        problem: Problem,
        data: Data,
        model: nn.Module,
        weighter: Weighter,
        training: Training,
        seed: int,
        device: torch.device,
    ) -> None:
        self.problem, self.data, self.model, self.weighter = problem, data, model, weighter
        self.training, self.seed, self.device = training, seed, device
        self.optimizer = make_optimizer(model, training)
        asks_norms = Needs.GRAD_NORMS in weighter.needs
        self.norms = SharedLayerNorms(problem, model, training.shared_layer) if asks_norms else None
        self.task_gradients = self._task_gradients() if OF_ALL_TASKS & weighter.needs else None
        self.validation_passes = self._validation_passes() if Needs.CROSS_GRAMIAN in weighter.needs else None
        self.extra_forwards = self.extra_backwards = 0
        self.health: list[Tensor] = []
        """A scalar for each step, not finite if the loss of a present task, a weight or the total was not."""

    def step(self, number: int) -> StepResult:
        """Make step ``number``."""
        wanted = self.weighter.wants()
        self._check_needs(wanted)
        parts = self._parts(to_device(self.data.train_batch(number), self.device))
        before = self.validation_losses(number).losses if Needs.VAL_LOSSES_BEFORE_STEP in wanted else None
        self.optimizer.zero_grad(set_to_none=True)
        passes = self._by_task if OF_ALL_TASKS & wanted else self._by_total
        passed = passes(number, parts, wanted)

        gradient_norm = self._clip()
        if self.training.lr_schedule != "constant" or self.training.warmup_steps:
            set_lr(self.optimizer, self.training, number)
        self.optimizer.step()

        seen = passed.seen if before is None else passed.seen.replace(val_losses_before=before)
        self.weighter.update(self._after(seen, number, parts, wanted, passed.gradients))
        return StepResult(passed.losses, seen.counts, passed.given, passed.weights, gradient_norm)

    def _by_total(self, number: int, parts: Sequence[_Part], wanted: Needs) -> _Passed:
        """A backward pass of the weighted total for each part."""
        norms = self.norms if Needs.GRAD_NORMS in wanted else None
        seen, graph = self._before(number, parts)
        given = self.weighter.weights(seen)
        weights = self._normalize(given)
        losses, health = TaskLosses(self.problem.num_tasks), torch.zeros((), device=self.device)
        for place, part in enumerate(parts):
            own = self._forward(number, place, part.batch) if graph is None else graph
            shared = own if part.share is None else own * part.share
            if norms is not None:
                norms.before_backward(shared, weights, None if part.counts is None else part.counts > 0)
            value = total(weights, shared, part.counts)
            value.backward()  # type: ignore[no-untyped-call]
            if norms is not None:
                norms.after_backward()
            if graph is None:
                losses.add(own.detach() * self._units(part), self._units(part))
            health = health + value.detach() + _sum_of_present(own, part.counts)
        self.health.append(health)
        if graph is None:
            seen = seen.replace(losses=losses.observation().losses)
        if norms is not None:
            seen = seen.replace(grad_norms=norms.take(weights))
        raw = graph if graph is not None else seen.losses
        assert raw is not None
        return _Passed(seen, raw.detach(), given, weights)

    def _by_task(self, number: int, parts: Sequence[_Part], wanted: Needs) -> _Passed:
        """The gradients of all tasks, and their weighted sum."""
        tasks = self.task_gradients
        assert tasks is not None
        found, health = [], torch.zeros((), device=self.device)
        for place, part in enumerate(parts):
            present = None if part.counts is None else part.counts > 0
            own = tasks.add(part.batch, part.share, present, partial(self._forward, number, place))
            found.append(own)
            health = health + _sum_of_present(own, part.counts)
        seen = self._together(parts, found)
        if Needs.GRAMIAN in wanted:
            seen = seen.replace(gramian=tasks.gramian())
        if Needs.GRAD_NORMS in wanted and self.norms is not None:
            seen = seen.replace(grad_norms=tasks.norms(self.norms.parameters))
        given = self.weighter.weights(seen)
        weights = self._normalize(given)
        gradients = tasks.apply(weights, self.weighter.own_weights(seen) if tasks.acts_on == "shared" else weights)
        assert seen.losses is not None
        self.health.append(health + total(weights, seen.losses, seen.counts))
        self.extra_backwards += tasks.backwards - 1
        return _Passed(seen, seen.losses, given, weights, gradients if Needs.CROSS_GRAMIAN in wanted else None)

    @property
    def extra(self) -> tuple[int, int, int]:
        """Passes beyond those of the weighted total: forwards, backwards, and partial backwards for norms."""
        return self.extra_forwards, self.extra_backwards, self.norms.extra_backwards if self.norms else 0

    @extra.setter
    def extra(self, passes: tuple[int, int, int]) -> None:
        self.extra_forwards, self.extra_backwards, partial = passes
        if self.norms is not None:
            self.norms.extra_backwards = partial

    def first_losses(self) -> Observation:
        """The losses of the first batch, for the weighter's start."""
        parts = self._parts(to_device(self.data.train_batch(0), self.device))
        return self._losses_of(parts, 0, evaluation=False)

    def validation_losses(self, number: int) -> Observation:
        """Mean losses of a step's validation mini-batches under the model as it is, in evaluation mode."""
        return self._losses_of(self._validation_parts(number), number, evaluation=True)

    # ---- before the backward pass --------------------------------------------------------------------------------

    def _before(self, number: int, parts: Sequence[_Part]) -> tuple[Observation, Tensor | None]:
        """What the weighter may see, and the losses with their graph where there is one part."""
        if len(parts) == 1:
            losses = self._forward(number, 0, parts[0].batch)
            return Observation(losses=losses, counts=parts[0].counts), losses
        if self.weighter.answers_from == "losses":
            self.extra_forwards += 1
            return self._losses_of(parts, number, evaluation=False), None
        return Observation(counts=torch.stack([self._units(part) for part in parts]).sum(0)), None

    def _forward(self, number: int, place: int, batch: Batch) -> Tensor:
        """Losses ``(*batch_shape, K)`` of a part, with graph; the same draws whenever the same part is passed."""
        if self.norms is not None:
            self.norms.arm()
        return self._losses(number, "train", place, batch)

    def _losses(self, number: int, purpose: str, place: int, batch: Batch) -> Tensor:
        seed_generators(self.device, self.seed, "step", number, purpose, place)
        return self.problem.losses(self.model, batch)

    def _task_gradients(self) -> TaskGradients:
        acts_on = self.training.acts_on or self.weighter.acts_on
        first = (to_device(self.data.train_batch(step), self.device) for step in count())
        seed_generators(self.device, self.seed, "task gradients")
        return TaskGradients(self.problem, self.model, first, acts_on, self.device)

    def _validation_passes(self) -> TaskPasses:
        assert self.task_gradients is not None
        first = (to_device(self.data.validation_batch(index), self.device) for index in count())
        seed_generators(self.device, self.seed, "task gradients", "validation")
        return TaskPasses(self.problem, self.model, self.task_gradients.shared, first, self.device, evaluation=True)

    def _check_needs(self, wanted: Needs) -> None:
        if wanted & ~self.weighter.needs:
            raise RuntimeError(f"{self.weighter.name}: expected `needs` to cover what `wants` asks for")

    def _normalize(self, weights: Tensor) -> Tensor:
        if self.training.normalize == "none":
            return weights
        target = 1 if self.training.normalize == "sum_to_one" else self.problem.num_tasks
        found = weights.sum(-1, keepdim=True)
        self._refuse_a_sum_near_zero(weights, found)
        # A batch without any task has no weights to rescale.
        return weights * torch.where(found == 0, 0.0, target / found)

    def _refuse_a_sum_near_zero(self, weights: Tensor, sums: Tensor) -> None:
        """Weights of both signs may cancel. Raises RuntimeError where that can be seen without waiting for a device."""
        near_zero = (sums != 0) & (sums.abs() < SMALLEST_SUM * weights.abs().sum(-1, keepdim=True))
        seen = visible(near_zero)
        if seen is not None and any(seen):
            at = sums[near_zero][0]
            raise RuntimeError(
                f"{self.weighter.name}: expected weights with a sum to divide by for normalize={self.training.normalize!r}, "
                f"found weights whose sum is {float(at):.3g}, nearly 0; use normalize='none'"
            )

    # ---- after it ------------------------------------------------------------------------------------------------

    def _clip(self) -> Tensor | None:
        if self.training.grad_clip is None:
            return None
        return nn.utils.clip_grad_norm_(self.model.parameters(), self.training.grad_clip)

    def _after(
        self, seen: Observation, number: int, parts: Sequence[_Part], wanted: Needs, gradients: Jacobian | None
    ) -> Observation:
        """The observation with what the method wants to see under the model after the step.

        gradients  of all tasks before it, where they are to be compared with those after it
        """
        if Needs.LOSSES_AFTER_STEP in wanted:
            self.extra_forwards += 1
            # With the draws of the training pass, so that a method that compares the two sees the step alone.
            seen = seen.replace(losses_after=self._losses_of(parts, number, evaluation=False).losses)
        if gradients is None and Needs.VAL_LOSSES not in wanted:
            return seen
        if gradients is None:
            found = self.validation_losses(number)
        else:
            found, products = self._across(number, gradients)
            seen = seen.replace(cross_gramian=products)
        # What the passes for gradients tell anyway, and nobody asked for, is not shown.
        return seen.replace(val_counts=found.counts, val_losses=found.losses if Needs.VAL_LOSSES in wanted else None)

    def _across(self, number: int, before: Jacobian) -> tuple[Observation, Tensor]:
        """Validation losses, and the inner products of their gradients with those before the step."""
        tasks, passes = self.task_gradients, self.validation_passes
        assert tasks is not None and passes is not None
        parts, found = self._validation_parts(number), []
        with undisturbed(self.model, self.device, evaluation=True, grad=True):
            for place, part in enumerate(parts):
                present = None if part.counts is None else part.counts > 0
                own = passes.add(part.batch, part.share, present, partial(self._losses, number, "validation", place))
                found.append(own)
        self.extra_backwards += self.training.validation_batches * passes.backwards
        return self._together(parts, found), tasks.cross_gramian(passes.jacobian.take(), before)

    # ---- micro-batches -------------------------------------------------------------------------------------------

    def _parts(self, *batches: Batch) -> list[_Part]:
        """The micro-batches of one batch, or of several that count as one."""
        cut = batches if self.training.accumulate == 1 else [part for batch in batches for part in self._split(batch)]
        parts = [_Part(part, self.problem.counts(part), None) for part in cut]
        if len(parts) == 1:
            return parts
        units = [self._units(part) for part in parts]
        whole = torch.stack(units).sum(0).clamp(min=1)
        return [_Part(part.batch, own, own / whole) for part, own in zip(parts, units, strict=True)]

    def _validation_parts(self, number: int) -> list[_Part]:
        """The micro-batches of a step's validation mini-batches, of which each is charged a forward pass."""
        several = self.training.validation_batches
        self.extra_forwards += several
        batches = map(self.data.validation_batch, range(number * several, (number + 1) * several))
        return self._parts(*(to_device(batch, self.device) for batch in batches))

    def _split(self, batch: Batch) -> Sequence[Batch]:
        return self.problem.micro_batches(batch, self.training.accumulate)

    def _units(self, part: _Part) -> Tensor:
        """Over how many units each task's mean was taken, ``(*batch_shape, K)``; rows where the problem does not say."""
        shape = (*self.problem.batch_shape, self.problem.num_tasks)
        if part.counts is not None:
            return part.counts.double().expand(shape)
        rows = next((len(tensor) for tensor in part.batch.values()), 1)
        return torch.full(shape, float(rows), dtype=torch.float64, device=self.device)

    def _losses_of(self, parts: Sequence[_Part], number: int, *, evaluation: bool) -> Observation:
        """Losses and counts over some parts, without gradients; nothing is changed by it."""
        with undisturbed(self.model, self.device, evaluation=evaluation):
            found = []
            for place, part in enumerate(parts):
                found.append(self._losses(number, "validation" if evaluation else "train", place, part.batch))
        return self._together(parts, found)

    def _together(self, parts: Sequence[_Part], found: Sequence[Tensor]) -> Observation:
        """Losses and counts over some parts whose losses are known."""
        if len(parts) == 1:
            return Observation(losses=found[0], counts=parts[0].counts)
        losses = TaskLosses(self.problem.num_tasks)
        for part, own in zip(parts, found, strict=True):
            losses.add(own * self._units(part), self._units(part))
        return losses.observation()


def _sum_of_present(losses: Tensor, counts: Tensor | None) -> Tensor:
    seen = losses.detach()
    return seen.sum() if counts is None else torch.where(counts > 0, seen, 0.0).sum()
