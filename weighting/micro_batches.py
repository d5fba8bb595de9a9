"""The micro-batches of one optimizer step, all at hand before the first backward pass, as trainers fetch them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weighting._per_task import PerTask
from weighting.observation import Needs, wide
from weighting.passes import Draws
from weighting.step import WeightedStep

Sums = Callable[[Any], PerTask]
"""A pass over a micro-batch: each task's losses, summed, with graph where it is asked for."""


class MicroBatches:
    """Opens a step, and makes the passes that its method asks for beside the training pass.

    step     to open, and later to close with ``losses_after=batches.mean_losses``
    batches  of this rank, at least one
    counts   from a micro-batch to the units of each task in it
    bare     a pass of the bare model, as ranks may differ in the number of their micro-batches
    """

    def __init__(self, step: WeightedStep, batches: Sequence[Any], counts: Callable[[Any], PerTask], bare: Sums) -> None:
        self.step, self.batches, self.bare = step, batches, bare
        self.counts = torch.stack([step.vector("counts", counts(batch)) for batch in batches]).sum(0)

    def open(self, training: Sums) -> Tensor:
        """Open the step; the sums ``(K,)`` of the first micro-batch, with graph, for ``step.total``.

        training  the training pass. Where the losses have to be known before, it is made before, and not again: the others
                  are passed by the bare model, with the random draws that their training passes will make.
        """
        draws, losses, sums = Draws.now(), None, None
        first, *others = self.batches
        if self.step.wants_losses:
            sums = self._vector(training(first))
            losses = partial(self._means, others, sums.detach())
        self.step.open(self.counts, losses, self._passes, draws)
        if Needs.LOSSES_AFTER_STEP not in self.step.weighter.needs:
            self.batches = []
        return self._vector(training(first)) if sums is None else sums

    def mean_losses(self) -> Tensor:
        """Each task's mean loss ``(K,)`` over all of them, as the model is now."""
        return self._means(self.batches)

    def _means(self, batches: Sequence[Any], *known: Tensor) -> Tensor:
        """known: the sums of those that are not passed."""
        sums = torch.stack([*known, *(self._vector(self.bare(batch)) for batch in batches)]).sum(0)
        return sums / wide(self.counts, sums.device).clamp(min=1)

    def _passes(self) -> Iterator[Tensor]:
        for batch in self.batches:
            yield self._vector(self.bare(batch))

    def _vector(self, sums: PerTask) -> Tensor:
        return self.step.vector("sums", sums)
