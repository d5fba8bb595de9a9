"""One optimizer step of anybody's training loop, over its micro-batches and ranks, with the weights of a method.

The semantics: L_i = sum of the task's losses / its count, over ALL micro-batches and ALL ranks of one optimizer step; one
``weights`` and one ``update`` per optimizer step that was made::

    step = weighting.WeightedStep(weighting.create("dwa", 2, window=100), ["code", "text"])
    for micro_batches in loader:
        step.open(sum(count_tokens(batch) for batch in micro_batches))       # (K,) units of the whole step
        for batch in micro_batches:
            step.total(task_sums(model, batch)).backward()                   # (K,) each task's losses, summed
        optimizer.step(); optimizer.zero_grad()
        step.close()
        print(step.logs())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from weighting._checks import check
from weighting._per_task import PerTask, per_task
from weighting._ranks import Ranks
from weighting.contract import Weighter
from weighting.losses import TaskLosses, total
from weighting.observation import Needs, Observation, wide
from weighting.passes import Draws, apart
from weighting.shared_gradients import SharedGradients
from weighting.step_log import StepLog
from weighting.validation import ValidationFeed

Losses = PerTask | Callable[[], PerTask]
"""Numbers per task, or a function that makes the pass that gives them, called without gradient and only where needed."""
Measure = Callable[[Any], tuple[PerTask, PerTask]]
"""From a batch to each task's summed loss and its count."""


class WeightedStep:
    """A method, and what has to be known of an optimizer step before, during and after its backward passes.

    weighter      of K tasks
    tasks         their names, K, in the order of all numbers per task
    ranks_averaged  over how many ranks the framework takes the MEAN of gradients (``DistributedDataParallel``, FSDP: the
                  number of ranks; gradients that are summed: 1); may be left out on one process alone
    loss_divided_by  what the framework divides the loss by before its backward pass (Accelerate and Lightning: the
                  accumulation steps; your own loop: 1)
    validation, measure  mini-batches for methods that read validation losses, and the function from a batch to each task's
                  summed loss and count
    model         whose modes and buffers the extra passes keep
    shared        the layer, or its parameters, whose gradients GradNorm compares; for methods on the Gramian, all parameters
                  that the tasks share
    lagged        methods that read the step's losses before its backward pass, where nobody gives them, are shown those of
                  the last step; at the first step, equal losses
    check_every   every how many steps the weights of all ranks are compared; 0: never
    group         process group to reduce over; None: the default one, where ``torch.distributed`` runs

    Raises ValueError where the names do not fit the method, or where it needs what was not given.
    """

    def __init__(
        self,
        weighter: Weighter,
        tasks: Sequence[str],
        *,
        ranks_averaged: int | None = None,
        loss_divided_by: int = 1,
        validation: ValidationFeed | None = None,
        measure: Measure | None = None,
        model: nn.Module | None = None,
        shared: nn.Module | Iterable[Tensor] | None = None,
        lagged: bool = False,
        check_every: int = 100,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        self.weighter, self.tasks = weighter, tuple(tasks)
        _check_tasks(weighter, self.tasks)
        self.ranks_averaged = ranks_averaged
        self.loss_divided_by: int = check("WeightedStep", "loss_divided_by", loss_divided_by, integer=True, ge=1)
        self.check_every: int = check("WeightedStep", "check_every", check_every, integer=True, ge=0)
        if Needs.CROSS_GRAMIAN in weighter.needs:
            raise ValueError(
                f"{weighter.name}: expected a loop of your own, with weighting.jacobian of validation after the step, as "
                "docs/loop.md shows, found WeightedStep, which takes no gradients of validation losses"
            )
        self.validation, self.measure, self.model = validation, measure, model
        if (validation is None) != (measure is None):
            raise ValueError("WeightedStep: expected validation and measure together, found one of them")
        self.gradients = None if shared is None else SharedGradients(shared, model)
        self.lagged, self.ranks = lagged, Ranks(group)
        self.steps = 0
        """Optimizer steps that were made."""
        self.skipped = 0
        """Optimizer steps that were not, because a gradient scaler skipped them."""
        self.started = False
        self.log = StepLog(self.tasks)
        self.weights: Tensor | None = None
        """``(K,)`` of the open step, or of the last one; no gradient, at least float32."""
        self.counts: Tensor | None = None
        """``(K,)`` units of the open step over all micro-batches and ranks."""
        self.previous: Tensor | None = None
        """``(K,)`` each task's newest loss; NaN: it has had none."""
        self._sums: Tensor | None = None
        self._before: Observation | None = None
        self._draws: Draws | None = None
        self._gramian: Tensor | None = None
        self._wanted = Needs.NOTHING
        self._own = torch.zeros(len(self.tasks), dtype=torch.float64)
        self._is_open = self._measured = False

    # ---- the three calls of a step -----------------------------------------------------------------------------------

    def open(
        self,
        counts: PerTask,
        losses: Losses | None = None,
        gradients: Callable[[], Iterable[PerTask]] | None = None,
        draws: Draws | None = None,
    ) -> Tensor:
        """The weights of a step, ``(K,)``; all ranks must call.

        counts  units (tokens, pixels, examples) of each task over all micro-batches of this rank; 0: absent here
        losses  each task's mean loss over those units before the step, or a function that gives it, called without gradient
                at the first step, and where the method reads the losses before it answers
        gradients  a function that makes a pass of the bare model over each micro-batch and gives its sums, as for ``total``;
                called, with the random draws of the training pass, where the method is one on the Gramian: K backward passes
                for each, at the parameters ``shared``, and the losses follow from them too
        draws   where the random generators stood before the training pass, where it was made before this call; None: now

        Raises ValueError where the method needs losses or gradients and nothing gives them, RuntimeError where a step is
        still open or the ranks have not the same weights.
        """
        if self._is_open:
            raise RuntimeError("WeightedStep: expected close() before the next open(), found the step still open")
        self._check_ranks()
        self._own = own = wide(self.vector("counts", counts))
        self.counts = self.ranks.sum(own)
        self._draws, self._wanted = draws or Draws.now(), self.weighter.wants()
        exact = self._exact(losses, gradients)
        if not self.started:
            self._start(exact)
        if Needs.VAL_LOSSES_BEFORE_STEP in self._wanted:
            self._before = self._validation_losses()
        seen = Observation(losses=self._answered_from(exact), counts=self.counts, gramian=self._gramian)
        self.weights = wide(self.weighter.weights(seen))
        self._compare_ranks()
        self._sums, self._is_open = torch.zeros_like(own), True
        if self._measures:
            self._gradients.watch()
        return self.weights

    def total(self, sums: PerTask, row_tasks: Tensor | None = None) -> Tensor:
        """The scalar to call ``backward`` on for one micro-batch, the factors of the framework undone.

        sums       each task's loss, summed over its units of this micro-batch, with graph; of one that is absent, 0 or left
                   out
        row_tasks  ``(rows,)`` the number of each row's task, where every row of the batch belongs to one: then GradNorm's
                   norms at a linear layer follow from this very backward pass, and cost no further ones

        Raises RuntimeError where no step is open.
        """
        weights, counts, known = self._opened()
        own = self.vector("sums", sums)
        self._sums = known + own.detach().to(known)
        # At least float32, whatever the model computes in.
        own = own.to(torch.promote_types(own.dtype, torch.float32))
        shares = own / counts.clamp(min=1).to(own)
        factor = self._averaged * self.loss_divided_by
        whole = total(weights.to(shares), shares, counts.to(shares)) * factor
        if self._measures and not self._measured:
            self._gradients.add_of(shares, whole, weights.to(shares) * factor, row_tasks)
        return whole

    def gradients_of(self, sums: PerTask) -> None:
        """Measure the tasks' gradients at the shared layer by whole backward passes, before ``total`` of the step.

        sums  as for ``total``, of a pass of their own through the bare model

        For re-entrant activation checkpointing, which hides them from ``total``.
        """
        _, counts, _ = self._opened()
        if self._measures:
            self._measured = True
            self._gradients.add_by_backward(self.vector("sums", sums) / counts.clamp(min=1))

    def close(
        self,
        *,
        skipped: bool = False,
        losses_after: Losses | None = None,
        val_losses: PerTask | None = None,
        val_counts: PerTask | None = None,
        grad_norms: PerTask | None = None,
    ) -> None:
        """The optimizer has made its step: let the method learn; all ranks must call.

        skipped       the step was not made (a gradient scaler found infinities): nothing is learned, nothing logged
        losses_after  mean losses of this rank over the same micro-batches after the step, or a function that gives them,
                      called without gradient with the random draws of the training pass
        val_losses, val_counts  in place of ``validation``: means of this rank's validation mini-batch, and their counts
        grad_norms    in place of ``shared``: norms of the whole step's unweighted task gradients

        Raises RuntimeError where no step is open, ValueError where the method needs what nothing gives.
        """
        _, counts, sums = self._opened()
        if skipped:
            self.skipped += 1
            self._forget()
            return
        losses = self.ranks.sum(sums) / counts.clamp(min=1)
        seen = Observation(losses=losses, counts=counts, gramian=self._gramian)
        seen = self._with_losses_after(seen, losses_after)
        seen = self._with_validation(seen, val_losses, val_counts)
        self.weighter.update(self._with_norms(seen, grad_norms))
        self._remember(losses, counts)
        self.steps += 1
        self._forget()

    # ---- logs and state ----------------------------------------------------------------------------------------------

    def logs(self, *, scores: bool = False) -> dict[str, float]:
        """``loss/<task>``, ``weight/<task>``, ``count/<task>``: means since the last call over the steps in which the task
        was present; NaN where it was in none.

        scores  the numbers inside the method too, as they are now: CoBa's ``RCS/<task>``, ``ACS/<task>`` and ``DF``
        """
        found = self.log.read()
        for name, value in self.weighter.probes().items() if scores else ():
            numbers = value.tolist()
            if isinstance(numbers, list):
                found |= {f"{name}/{task}": number for task, number in zip(self.tasks, numbers, strict=True)}
            else:
                found[name] = numbers
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had not stopped, the validation feed's position included."""
        if self._is_open:
            raise RuntimeError("WeightedStep: expected a closed step to save, found it open")
        return {
            "tasks": list(self.tasks),
            "weighter": self.weighter.state_dict(),
            "previous": self.previous,
            "steps": self.steps,
            "skipped": self.skipped,
            "started": self.started,
            "log": self.log.state_dict(),
            "validation": None if self.validation is None else self.validation.state_dict(),
            "rows_agree": None if self.gradients is None else self.gradients.rows_agree,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken. Raises ValueError on the state of other tasks."""
        if tuple(state["tasks"]) != self.tasks:
            raise ValueError(f"WeightedStep: expected the state of tasks {list(self.tasks)}, found {state['tasks']}")
        self.weighter.load_state_dict(state["weighter"])
        self.previous, self.started = state["previous"], state["started"]
        self.steps, self.skipped = state["steps"], state["skipped"]
        self.log.load_state_dict(state["log"])
        if self.validation is not None and state["validation"] is not None:
            self.validation.load_state_dict(state["validation"])
        if self.gradients is not None:
            self.gradients.rows_agree = state.get("rows_agree")
        self._forget()

    # ---- before the backward pass ------------------------------------------------------------------------------------

    def _start(self, exact: Tensor | None) -> None:
        """Show the method the losses of the first batch and, where it reads them, those of the whole validation set."""
        self.started = True
        first = Observation(losses=exact, counts=self.counts)
        if Needs.VAL_LOSSES in self.weighter.needs:
            if self.validation is None:
                return
            found = self._losses_of(self.validation.everything())
            first = first.replace(val_losses=found.losses, val_counts=found.counts)
        if first.losses is not None or first.val_losses is not None:
            self.weighter.start(first)

    def _answered_from(self, exact: Tensor | None) -> Tensor | None:
        """The losses that the method answers from; None where it answers from its state."""
        if self.weighter.answers_from == "state" or exact is not None:
            return exact
        if not self.lagged:
            raise ValueError(
                f"{self.weighter.name}: expected losses= in open(), as its weights follow from this step's losses, found "
                "none; or let those of the last step stand for them: lagged=True"
            )
        known = torch.full_like(self._own, torch.nan) if self.previous is None else self.previous
        return torch.where(known.isnan(), known.nanmean().nan_to_num(nan=1.0), known)

    def _means(self, losses: Losses | None, draws: Draws | None = None) -> Tensor | None:
        """Mean losses ``(K,)`` over all ranks, from this rank's means or a pass that gives them."""
        if losses is None or self.counts is None:
            return None
        if callable(losses):
            with apart(self.model, evaluation=False, draws=draws):
                losses = losses()
        means = self.vector("losses", losses).detach().to(self._own)
        return self.ranks.sum(torch.where(self._own > 0, means * self._own, 0.0)) / self.counts.clamp(min=1)

    def _exact(self, losses: Losses | None, gradients: Callable[[], Iterable[PerTask]] | None) -> Tensor | None:
        """Mean losses ``(K,)`` of the step, where the method wants to see them now; with the gradients, where it asks."""
        if Needs.GRAMIAN in self._wanted:
            return self._by_task(gradients)
        return self._means(losses) if not self.started or self.weighter.answers_from == "losses" else None

    def _by_task(self, gradients: Callable[[], Iterable[PerTask]] | None) -> Tensor:
        """Take the gradients of all tasks, and their Gramian over all ranks; the mean losses ``(K,)``."""
        if gradients is None:
            raise ValueError(
                f"{self.weighter.name}: expected gradients= in open(), as its weights follow from the gradients of all "
                "tasks, found none; or, in a loop of your own, use weighting.jacobian and apply"
            )
        assert self.counts is not None
        whole, sums = self.counts.clamp(min=1), torch.zeros_like(self._own)
        with apart(self.model, evaluation=False, draws=self._draws, grad=True):
            for given in gradients():
                own = self.vector("sums", given)
                sums = sums + own.detach().to(sums)
                self._gradients.add(own / whole.to(own))
        self._gramian = self._gradients.gramian(self.ranks)
        return self.ranks.sum(sums) / whole

    # ---- after the optimizer -----------------------------------------------------------------------------------------

    def _with_losses_after(self, seen: Observation, losses_after: Losses | None) -> Observation:
        if Needs.LOSSES_AFTER_STEP not in self._wanted:
            return seen
        if losses_after is None:
            raise ValueError(f"{self.weighter.name}: expected losses_after= in close(), found none")
        return seen.replace(losses_after=self._means(losses_after, self._draws))

    def _with_validation(self, seen: Observation, losses: PerTask | None, counts: PerTask | None) -> Observation:
        if Needs.VAL_LOSSES not in self._wanted:
            return seen
        if losses is not None:
            means = self.vector("val_losses", losses)
            own = torch.ones_like(means) if counts is None else self.vector("val_counts", counts)
            found = TaskLosses(len(self.tasks), group=self.ranks.group)
            found.add(means * own, own)
            now = found.observation()
        else:
            now = self._validation_losses()
            if self.validation is not None:
                self.validation.advance()
        before = None if self._before is None else self._before.losses
        return seen.replace(val_losses=now.losses, val_counts=now.counts, val_losses_before=before)

    def _with_norms(self, seen: Observation, norms: PerTask | None) -> Observation:
        if Needs.GRAD_NORMS not in self._wanted:
            return seen
        if norms is not None:
            return seen.replace(grad_norms=self.vector("grad_norms", norms))
        return seen.replace(grad_norms=self._gradients.norms(self.ranks))

    def _validation_losses(self) -> Observation:
        """Losses of the coming validation mini-batches over all ranks, in evaluation mode."""
        if self.validation is None:
            raise ValueError(f"{self.weighter.name}: expected validation=, or val_losses= in close(), found neither")
        return self._losses_of(self.validation.take())

    def _losses_of(self, batches: Iterable[Any]) -> Observation:
        assert self.measure is not None
        losses = TaskLosses(len(self.tasks), group=self.ranks.group, device=self._own.device)
        with apart(self.model, evaluation=True):
            for batch in batches:
                sums, counts = self.measure(batch)
                losses.add(self.vector("sums", sums), self.vector("counts", counts))
        return losses.observation()

    def _remember(self, losses: Tensor, counts: Tensor) -> None:
        known = torch.full_like(losses, torch.nan) if self.previous is None else self.previous.to(losses)
        self.previous = torch.where((counts > 0) & losses.isfinite(), losses, known)
        assert self.weights is not None
        self.log.add(losses, self.weights, counts)

    def _forget(self) -> None:
        self._is_open = self._measured = False
        self._before = self._draws = self._sums = self._gramian = None
        if self.gradients is not None:
            self.gradients.clear()

    # ---- ranks and numbers per task ----------------------------------------------------------------------------------

    @property
    def wants_losses(self) -> bool:
        """Whether the coming ``open`` reads the step's losses, where it is given them."""
        reads = not self.started or self.weighter.answers_from == "losses"
        return reads and not self.lagged and Needs.GRAMIAN not in self.weighter.wants()

    @property
    def _averaged(self) -> int:
        return 1 if self.ranks_averaged is None else self.ranks_averaged

    @property
    def _measures(self) -> bool:
        """Whether the step's gradient norms are measured here."""
        return Needs.GRAD_NORMS in self._wanted and self.gradients is not None

    @property
    def _gradients(self) -> SharedGradients:
        if self.gradients is None:
            raise ValueError(
                f"{self.weighter.name}: expected shared=, the parameters at which it compares gradients, or, for norms, "
                "grad_norms= in close(), found neither"
            )
        return self.gradients

    def _check_ranks(self) -> None:
        if self.ranks_averaged is None and self.ranks.number > 1:
            raise ValueError(
                f"WeightedStep: expected ranks_averaged={self.ranks.number} where gradients are averaged over the ranks "
                "(DistributedDataParallel, FSDP), or 1 where they are summed, found nothing said"
            )

    def _compare_ranks(self) -> None:
        """Raise RuntimeError on all ranks unless they have the same weights."""
        assert self.weights is not None
        if self.ranks.number == 1 or not self.check_every or self.steps % self.check_every:
            return
        highest, lowest = self.ranks.highest(self.weights).tolist(), self.ranks.lowest(self.weights).tolist()
        for task, high, low in zip(self.tasks, highest, lowest, strict=True):
            if high != low:
                raise RuntimeError(
                    f"WeightedStep: expected the same weights on all ranks, found {low:.6g} to {high:.6g} for task {task!r} "
                    f"in step {self.steps}; were the ranks given one state, and the method with one seed?"
                )

    def _opened(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, counts and the sums so far of the open step, each ``(K,)``."""
        if not self._is_open or self.weights is None or self.counts is None or self._sums is None:
            raise RuntimeError("WeightedStep: expected open() before total() and close(), found no open step")
        return self.weights, self.counts, self._sums

    def vector(self, name: str, values: PerTask) -> Tensor:
        """Numbers per task as ``(K,)``, in their order. Raises ValueError on an unknown task or another number of them."""
        return per_task(self.tasks, name, values)


def _check_tasks(weighter: Weighter, tasks: tuple[str, ...]) -> None:
    if len(set(tasks)) != len(tasks) or len(tasks) != weighter.num_tasks or weighter.batch_shape:
        raise ValueError(
            f"WeightedStep: expected {weighter.num_tasks} different task names and a method without replicas, "
            f"found {list(tasks)} and batch_shape {weighter.batch_shape}"
        )
