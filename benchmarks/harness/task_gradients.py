"""The gradients of all tasks, of training or validation: by which passes they are taken, and over which parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch, Problem
from benchmarks.harness.randomness import Generators, undisturbed
from benchmarks.harness.row_blocks import RowBlocks
from weighting.jacobians import Jacobian

Way = Literal["row_blocks", "own_rows", "a_pass_each"]
"""By which passes: ``row_blocks``, one backward pass for all tasks, see ``RowBlocks``; ``own_rows``, a forward and a
backward pass over the rows of each task; ``a_pass_each``, a backward pass for each task through the graph of all."""
ActsOn = Literal["all", "shared"]
Forward = Callable[[Batch], Tensor]
"""From a batch to its losses, with graph; the same draws at every call."""

LOOKS = 8
"""Training batches that are looked at, at most, for one of each task."""
AGREEMENT = 1e-3
"""Relative difference from the loss, or the gradient, of a pass over the whole batch, above which a cheaper way is wrong."""


class TaskPasses:
    """The gradient of each task by some parameters, and by which passes it is taken.

    Every task takes a backward pass through the whole graph, unless a cheaper way is seen to give the same numbers on the
    first batches: where the rows of a batch belong to one task each, one backward pass over K equal groups of rows, or K
    passes over a part of the rows each, for which the model must draw no random numbers and normalise over no batch.

    first       batches in order, of which a few are looked at
    device      of the model
    evaluation  whether the passes are made in evaluation mode; whoever calls ``add`` sets the mode
    """

    def __init__(
        self,
        problem: Problem,
        model: nn.Module,
        parameters: Sequence[Tensor],
        first: Iterator[Batch],
        device: torch.device,
        *,
        evaluation: bool,
    ) -> None:
        self.problem = problem
        self.jacobian = Jacobian(problem.num_tasks, parameters, replica_dims=len(problem.batch_shape))
        self.blocks = RowBlocks(model, self.jacobian)
        with undisturbed(model, device, evaluation=evaluation, grad=True):
            look = _Look(problem, model, self.jacobian, first, device, self.blocks if _has_blocks(problem) else None)
        self.way: Way = look.way
        self.jacobian.heads = look.heads() if self.way == "a_pass_each" else {}
        self.reached = look.shared(parameters)
        """Those of the parameters that the losses of all tasks reach, or, so far, those of none."""
        self.jacobian.clear()

    @property
    def backwards(self) -> int:
        """Backward passes over all rows."""
        return self.problem.num_tasks if self.way == "a_pass_each" else 1

    def add(self, batch: Batch, share: Tensor | None, present: Tensor | None, forward: Forward) -> Tensor:
        """Add a micro-batch's gradients; returns its losses ``(*batch_shape, K)``, detached.

        share    ``(*batch_shape, K)`` the part of each task's units that it holds; None: all of them
        present  bool, as ``share``; None: all tasks are there
        """
        if self.way == "own_rows":
            return self._add_own_rows(batch, share, forward)
        if self.way == "row_blocks":
            self.blocks.arm()
        losses = forward(batch)
        shared = losses if share is None else losses * share
        if self.way == "row_blocks":
            self.blocks.add(shared)
        else:
            self.jacobian.add(shared, present=present)
        return losses.detach()

    def _add_own_rows(self, batch: Batch, share: Tensor | None, forward: Forward) -> Tensor:
        found = []
        for task, rows in enumerate(own_rows(self.problem, batch)):
            loss = forward(rows).sum(-1)
            found.append(loss.detach())
            self.jacobian.add_task(task, loss if share is None else loss * share[..., task])
        return torch.stack(found, dim=-1)


class TaskGradients(TaskPasses):
    """The gradient of each task by all trained parameters, in a step of training.

    first   training batches; as in ``TaskPasses``

    Raises ValueError where a problem names shared parameters that are not trained.
    """

    def __init__(
        self, problem: Problem, model: nn.Module, first: Iterator[Batch], acts_on: ActsOn, device: torch.device
    ) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(problem, model, trained, first, device, evaluation=False)
        self.acts_on = acts_on
        self.megabytes = 0.0
        """What the gradients of all tasks took in the last step, those of validation included."""
        named = problem.shared_parameters(model)
        self.shared = self.reached if named is None else _trained(problem, named)
        shared = {id(parameter) for parameter in self.shared}
        self.own = [parameter for parameter in trained if id(parameter) not in shared]

    def gramian(self) -> Tensor:
        """Inner products over the shared parameters, ``(*batch_shape, K, K)``."""
        return self.jacobian.gramian(among=self.shared)

    def norms(self, parameters: Sequence[Tensor]) -> Tensor:
        """Norms over some of the trained parameters, ``(*batch_shape, K)``."""
        return self.jacobian.norms(among=parameters)

    def apply(self, weights: Tensor, own: Tensor) -> Jacobian:
        """Write the gradients of the step into the model's ``.grad``. Returns them; nothing is kept of them here.

        weights  ``(*batch_shape, K)``, of the shared parameters
        own      the same, of what belongs to some tasks alone
        """
        self.jacobian.apply(weights, among=self.shared)
        self.jacobian.apply(own, among=self.own)
        self.megabytes = self.jacobian.num_bytes / 2**20
        return self.jacobian.take()

    def cross_gramian(self, after: Jacobian, before: Jacobian) -> Tensor:
        """Inner products of the gradients of validation, the rows, with those of the step, the columns.

        ``(*batch_shape, K, K)``, over the shared parameters.
        """
        self.megabytes += after.num_bytes / 2**20
        return after.cross_gramian(before, among=self.shared)


def own_rows(problem: Problem, batch: Batch) -> Sequence[Batch]:
    """The rows of each task. Raises RuntimeError where the problem has given them for other batches and not for this one."""
    found = problem.task_rows(batch)
    if found is None or len(found) != problem.num_tasks:
        number = "none" if found is None else len(found)
        raise RuntimeError(
            f"{problem.name}: expected task_rows to give {problem.num_tasks} parts of every batch, found {number}"
        )
    return found


class _Look:
    """What is seen of the first batches, until every task was in one."""

    def __init__(
        self,
        problem: Problem,
        model: nn.Module,
        jacobian: Jacobian,
        first: Iterator[Batch],
        device: torch.device,
        blocks: RowBlocks | None,
    ) -> None:
        self.problem, self.model, self.device, self.blocks = problem, model, device, blocks
        self.jacobian = jacobian
        self.reached: list[Tensor] = []
        """For each parameter, which tasks' losses have a gradient there that is not 0 everywhere, bool ``(K,)``."""
        self.owners: list[set[int]] = [set() for _ in jacobian.parameters]
        """For each parameter, the tasks whose losses have it in their graph."""
        seen = torch.zeros(problem.num_tasks, dtype=torch.bool)
        self.rows_are_own, self.blocks_are_right = True, blocks is not None
        for _, batch in zip(range(LOOKS), first, strict=False):
            present = self._present(batch)
            if bool((present & ~seen).any()):
                self._look(batch, present)
                seen |= present
            if bool(seen.all()):
                break
        self.seen = seen

    @property
    def way(self) -> Way:
        """The cheapest that is right."""
        if self.blocks_are_right:
            return "row_blocks"
        return "own_rows" if self.rows_are_own else "a_pass_each"

    def shared(self, trained: Sequence[Tensor]) -> list[Tensor]:
        """The parameters that the losses of all tasks reach, or, so far, those of none."""
        if not self.reached:
            return list(trained)
        pairs = ((own, reached[self.seen]) for own, reached in zip(trained, self.reached, strict=True))
        return [own for own, reached in pairs if bool(reached.all()) or not bool(reached.any())]

    def heads(self) -> dict[int, int]:
        """The places of parameters in the graph of one task's loss alone, and this task."""
        if not bool(self.seen.all()):
            return {}
        return {place: next(iter(tasks)) for place, tasks in enumerate(self.owners) if len(tasks) == 1 < len(self.seen)}

    def _present(self, batch: Batch) -> Tensor:
        counts = self.problem.counts(batch)
        if counts is None:
            return torch.ones(self.problem.num_tasks, dtype=torch.bool)
        return (counts > 0).reshape(-1, self.problem.num_tasks).any(0).cpu()

    def _look(self, batch: Batch, present: Tensor) -> None:
        seed = Generators.now(self.device)
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        losses = self.problem.losses(self.model, batch)
        same = all(torch.equal(old, new) for old, new in zip(buffers, self.model.buffers(), strict=True))
        self.rows_are_own = (
            self.rows_are_own and same and seed.are_unmoved(self.device) and self._rows_give(batch, losses, present)
        )
        self.jacobian.clear()
        self.jacobian.add(losses, present=present)
        found = self.jacobian.take()
        self.blocks_are_right = self.blocks_are_right and self._blocks_give(batch, present, seed, found)
        all_rows = [found.rows(place) for place in range(len(found.parameters))]
        for tasks, rows in zip(self.owners, all_rows, strict=True):
            tasks.update(rows)
        reached = [
            torch.tensor([task in rows and bool((rows[task] != 0).any()) for task in range(len(present))])
            for rows in all_rows
        ]
        self.reached = [old | new for old, new in zip(self.reached or map(torch.zeros_like, reached), reached, strict=True)]

    def _blocks_give(self, batch: Batch, present: Tensor, seed: Generators, expected: Jacobian) -> bool:
        """Whether one backward pass gives the gradients of a pass for each task."""
        assert self.blocks is not None
        seed.restore()
        found = self.blocks.jacobian
        found.clear()
        try:
            self.blocks.arm()
            self.blocks.add(self.problem.losses(self.model, batch))
        except (RuntimeError, ValueError):
            # A module with several inputs, or one without a batching rule.
            return False
        tasks = present.nonzero().flatten().tolist()
        return all(_distance(found, expected, task) <= AGREEMENT for task in tasks)

    @torch.no_grad()
    def _rows_give(self, batch: Batch, losses: Tensor, present: Tensor) -> bool:
        """Whether each task's rows alone give the loss that it has in the whole batch."""
        parts = self.problem.task_rows(batch)
        if parts is None:
            return False
        own = torch.stack([self.problem.losses(self.model, part).sum(-1) for part in parts], dim=-1)
        off = (own - losses).abs() > AGREEMENT * losses.abs()
        return not bool((off & present.to(off.device)).any())


def _has_blocks(problem: Problem) -> bool:
    return problem.rows_belong_to_tasks and not problem.batch_shape


def _distance(found: Jacobian, expected: Jacobian, task: int) -> float:
    """Of a task's gradient, relative to its norm."""
    squares = size = 0.0
    for place in range(len(found.parameters)):
        own, wanted = found.rows(place).get(task, 0.0), expected.rows(place).get(task, 0.0)
        squares += float(torch.as_tensor(own - wanted).double().square().sum())
        size += float(torch.as_tensor(wanted).double().square().sum())
    return math.sqrt(squares / size) if size else math.sqrt(squares)


def _trained(problem: Problem, named: Sequence[Tensor]) -> list[Tensor]:
    found = [parameter for parameter in named if parameter.requires_grad]
    if not found:
        raise ValueError(f"{problem.name}: expected shared_parameters to hold some that are trained, found none")
    return found
