"""The gradients of all tasks in one step: by which passes they are taken, and over which parameters they are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch, Problem
from benchmarks.harness.randomness import Generators, undisturbed
from weighting.jacobian import Jacobian

Way = Literal["own_rows", "a_pass_each"]
"""``own_rows``: a forward and a backward pass over the rows of each task; ``a_pass_each``: a backward pass for each task
through the graph of all."""
ActsOn = Literal["all", "shared"]
Forward = Callable[[Batch], Tensor]
"""From a batch to its losses, with graph; the same draws at every call."""

LOOKS = 8
"""Training batches that are looked at, at most, for one of each task."""
AGREEMENT = 1e-3
"""Relative difference between a task's loss in the whole batch and over its own rows, above which the rows are not its own."""


class TaskGradients:
    """The gradient of each task by all trained parameters.

    Where the rows of a batch belong to one task each, K passes over a part of the rows cost about as much as one over all of
    them. That is how the gradients are taken where it is seen to give the same losses: the model draws no random numbers and
    normalises over no batch. Elsewhere every task takes a backward pass through the whole graph.

    first   training batches in order, of which a few are looked at
    device  of the model

    Raises ValueError where a problem names shared parameters that are not trained.
    """

    def __init__(self, problem: Problem, model: nn.Module, first: Iterator[Batch], acts_on: ActsOn, device: torch.device) -> None:
        self.problem, self.acts_on = problem, acts_on
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.jacobian = Jacobian(problem.num_tasks, trained, replica_dims=len(problem.batch_shape))
        with undisturbed(model, device, evaluation=False, grad=True):
            look = _Look(problem, model, first, device)
        self.way: Way = "own_rows" if look.rows_are_own else "a_pass_each"
        named = problem.shared_parameters(model)
        self.shared = look.shared(trained) if named is None else _trained(problem, named)
        shared = {id(parameter) for parameter in self.shared}
        self.own = [parameter for parameter in trained if id(parameter) not in shared]

    @property
    def extra_backwards(self) -> int:
        """Backward passes of a step beyond one over all rows."""
        return 0 if self.way == "own_rows" else self.problem.num_tasks - 1

    @property
    def megabytes(self) -> float:
        """What the gradients of all tasks take."""
        sizes = (parameter.numel() * parameter.element_size() for parameter in self.jacobian.parameters)
        return self.problem.num_tasks * sum(sizes) / 2**20

    def add(self, batch: Batch, share: Tensor | None, present: Tensor | None, forward: Forward) -> Tensor:
        """Add a micro-batch's gradients; returns its losses ``(*batch_shape, K)``, detached.

        share    ``(*batch_shape, K)`` the part of each task's units that it holds; None: all of them
        present  bool, as ``share``; None: all tasks are there
        """
        if self.way == "a_pass_each":
            losses = forward(batch)
            self.jacobian.add(losses if share is None else losses * share, present=present)
            return losses.detach()
        found = []
        for task, rows in enumerate(own_rows(self.problem, batch)):
            loss = forward(rows).sum(-1)
            found.append(loss.detach())
            self.jacobian.add_task(task, loss if share is None else loss * share[..., task])
        return torch.stack(found, dim=-1)

    def gramian(self) -> Tensor:
        """Inner products over the shared parameters, ``(*batch_shape, K, K)``."""
        return self.jacobian.gramian(among=self.shared)

    def norms(self, parameters: Sequence[Tensor]) -> Tensor:
        """Norms over some of the trained parameters, ``(*batch_shape, K)``."""
        return self.jacobian.norms(among=parameters)

    def apply(self, weights: Tensor, present: Tensor | None) -> None:
        """Write the gradients of the step into the model's ``.grad``; nothing is kept of them.

        weights  ``(*batch_shape, K)``; with ``acts_on="shared"``, what belongs to some tasks alone is trained by the plain sum
        present  bool, as weights: which tasks the step has; None: all
        """
        ones = torch.ones_like(weights)
        plain = ones if present is None else torch.where(present, ones, 0.0)
        self.jacobian.apply(weights, among=self.shared)
        self.jacobian.apply(weights if self.acts_on == "all" else plain, among=self.own)
        self.jacobian.clear()


def own_rows(problem: Problem, batch: Batch) -> Sequence[Batch]:
    """The rows of each task. Raises RuntimeError where the problem has given them for other batches and not for this one."""
    found = problem.task_rows(batch)
    if found is None or len(found) != problem.num_tasks:
        number = "none" if found is None else len(found)
        raise RuntimeError(f"{problem.name}: expected task_rows to give {problem.num_tasks} parts of every batch, found {number}")
    return found


class _Look:
    """What is seen of the first batches, until every task was in one."""

    def __init__(self, problem: Problem, model: nn.Module, first: Iterator[Batch], device: torch.device) -> None:
        self.problem, self.model, self.device = problem, model, device
        self.reached: list[Tensor] = []
        """For each parameter, which tasks' losses have a gradient there, bool ``(K,)``."""
        seen = torch.zeros(problem.num_tasks, dtype=torch.bool)
        self.rows_are_own = True
        for _, batch in zip(range(LOOKS), first, strict=False):
            present = self._present(batch)
            if bool((present & ~seen).any()):
                self._look(batch, present)
                seen |= present
            if bool(seen.all()):
                break
        self.seen = seen

    def shared(self, trained: Sequence[Tensor]) -> list[Tensor]:
        """The parameters that the losses of all tasks reach, or, so far, those of none."""
        if not self.reached:
            return list(trained)
        pairs = ((own, reached[self.seen]) for own, reached in zip(trained, self.reached, strict=True))
        return [own for own, reached in pairs if bool(reached.all()) or not bool(reached.any())]

    def _present(self, batch: Batch) -> Tensor:
        counts = self.problem.counts(batch)
        if counts is None:
            return torch.ones(self.problem.num_tasks, dtype=torch.bool)
        return (counts > 0).reshape(-1, self.problem.num_tasks).any(0).cpu()

    def _look(self, batch: Batch, present: Tensor) -> None:
        before = Generators.now(self.device)
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        losses = self.problem.losses(self.model, batch)
        same = all(torch.equal(old, new) for old, new in zip(buffers, self.model.buffers(), strict=True))
        self.rows_are_own = self.rows_are_own and same and before.are_unmoved(self.device) and self._rows_give(batch, losses, present)
        found = Jacobian(self.problem.num_tasks, self.model, replica_dims=len(self.problem.batch_shape))
        found.add(losses, present=present)
        reached = [
            torch.zeros_like(present) if block is None else (block.flatten(1) != 0).any(1).cpu() for block in found.blocks
        ]
        self.reached = [old | new for old, new in zip(self.reached or map(torch.zeros_like, reached), reached, strict=True)]

    @torch.no_grad()
    def _rows_give(self, batch: Batch, losses: Tensor, present: Tensor) -> bool:
        """Whether each task's rows alone give the loss that it has in the whole batch."""
        parts = self.problem.task_rows(batch)
        if parts is None:
            return False
        own = torch.stack([self.problem.losses(self.model, part).sum(-1) for part in parts], dim=-1)
        off = (own - losses).abs() > AGREEMENT * losses.abs()
        return not bool((off & present.to(off.device)).any())


def _trained(problem: Problem, named: Sequence[Tensor]) -> list[Tensor]:
    found = [parameter for parameter in named if parameter.requires_grad]
    if not found:
        raise ValueError(f"{problem.name}: expected shared_parameters to hold some that are trained, found none")
    return found
