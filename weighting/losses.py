"""The losses of a step: one total, and means over micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from weighting._checks import check
from weighting._ranks import Ranks
from weighting.observation import Numbers, Observation, as_tensor, visible, wide


def total(weights: Numbers, losses: Tensor | Sequence[Tensor], counts: Numbers | None = None) -> Tensor:
    """The sum of w_i L_i over the tasks that are there, over replicas too: a scalar with graph.

    weights  ``(*batch_shape, K)``, as a method gave them
    losses   ``(*batch_shape, K)`` raw losses with graph, or a sequence of K losses
    counts   as in ``Observation``; 0: the task is absent; None: all are present

    A task that is absent, whose weight is 0 or whose loss is not finite adds exactly 0. Its gradient is 0 too, but a loss
    that was made by dividing by 0 turns even that into a number that is not finite: give such losses as a sequence, from
    which those with a count of 0 are left out, or take means with ``count.clamp(min=1)``.

    Raises ValueError where the shapes differ.
    """
    factors = as_tensor("weights", weights).detach()
    present = None if counts is None else as_tensor("counts", counts).detach()
    if not isinstance(losses, Tensor):
        losses = _stack(losses, present)
    factors = factors.to(losses.new_empty(0, dtype=factors.dtype))
    for name, value in (("weights", factors), ("counts", present)):
        if value is not None and value.shape != losses.shape:
            found = f"{tuple(value.shape)} for losses of shape {tuple(losses.shape)}"
            raise ValueError(f"total: expected {name} of the shape of the losses, found {found}")
    terms = factors * losses
    numbers = visible(terms.detach())
    if numbers is not None and all(map(math.isfinite, numbers)) and present is None:
        return terms.sum()
    seen = losses.detach()
    counted = (factors != 0) & (seen - seen == 0)
    if present is not None:
        counted = counted & (present.to(factors.new_empty(0, dtype=present.dtype)) > 0)
    return torch.where(counted, terms, 0.0).sum()


def _stack(losses: Sequence[Tensor], counts: Tensor | None) -> Tensor:
    """K losses as one tensor, with 0 in place of those that are seen to be absent."""
    numbers = None if counts is None else visible(counts)
    if numbers is None:
        return torch.stack(list(losses))
    return torch.stack([loss if n > 0 else torch.zeros_like(loss) for loss, n in zip(losses, numbers, strict=True)])


class TaskLosses:
    """Sums and counts of one optimizer step, over its micro-batches and over all ranks.

    ::

        step = TaskLosses(num_tasks=3)
        for batch in micro_batches:
            step.add(summed_losses, tokens)             # both (3,)
        now = step.observation()                        # L_i = sum / count over everything

    num_tasks  K >= 1
    group      process group to reduce over; None: the default one, where ``torch.distributed`` runs
    device     of a rank that adds nothing in its first step; elsewhere the losses' device counts
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        group: distributed.ProcessGroup | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_tasks: int = check("TaskLosses", "num_tasks", num_tasks, integer=True, ge=1)
        self.ranks, self.device = Ranks(group), torch.device(device)
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None

    def add(self, sums: Numbers, counts: Numbers) -> None:
        """Add a micro-batch.

        sums    ``(*batch_shape, K)`` each task's loss, summed over its units; that of a task with count 0 means nothing
        counts  ``(*batch_shape, K)`` the units of each task: tokens, pixels, examples

        Raises ValueError on another number of tasks.
        """
        sums, counts = as_tensor("sums", sums).detach(), as_tensor("counts", counts).detach()
        for name, value in (("sums", sums), ("counts", counts)):
            if value.dim() == 0 or value.shape[-1] != self.num_tasks:
                raise ValueError(f"TaskLosses: expected {name} of {self.num_tasks} tasks, found shape {tuple(value.shape)}")
        self.device = sums.device
        counts = wide(counts, self.device)
        sums = torch.where(counts > 0, wide(sums), 0.0)
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts = counts if self._counts is None else self._counts + counts

    def observation(self) -> Observation:
        """Losses and counts of everything added on all ranks; one all-reduce of 2 K numbers, for which all ranks must call.

        Raises ValueError if nothing was added, unless other ranks may have.
        """
        if self._sums is not None and self._counts is not None:
            both = torch.stack([self._sums, self._counts])
        elif self.ranks.number > 1:
            both = wide(torch.zeros(2, self.num_tasks), self.device)
        else:
            raise ValueError("TaskLosses: expected a micro-batch before the observation, found none; call add()")
        both = self.ranks.sum(both)
        sums, counts = both.unbind()
        present = counts > 0
        return Observation(losses=sums / torch.where(present, counts, 1.0), counts=counts)

    def clear(self) -> None:
        """Forget everything: the next step begins."""
        self._sums = self._counts = None
