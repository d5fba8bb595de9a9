"""Methods with one planted fault each. Every one claims all it keeps, and the one property that it breaks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from weighting import Observation, Weighter


class Broken(Weighter):
    """Knows each task's loss relative to the first one, r_i = L_i(t) / L_i(0), and how many steps were made."""

    breaks: ClassVar[str]
    keeps: ClassVar[frozenset[str]]

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.add_state("initial", 1.0)
        self.initial: Tensor
        self.steps = 0

    def start(self, first: Observation) -> None:
        self.initial.copy_(self.read(first, "losses"))

    def update(self, after: Observation) -> None:
        self.steps += 1

    def ratios(self, now: Observation) -> Tensor:
        return self.read(now, "losses") / self.initial


class TurnsNegative(Broken):
    """The weight of a task far above the others in r falls below zero."""

    name, breaks = "turns_negative", "nonnegative"
    keeps = frozenset({"sums_to_num_tasks", "permutation_equivariant", "scale_free", "task_scale_free"})

    def weights(self, now: Observation) -> Tensor:
        ratios = self.ratios(now)
        return self.reply(1 - 10 * (ratios - ratios.mean()), now)


class GrowsLate(Broken):
    """Sums to one for ten steps, to a millionth more from then on."""

    name, breaks = "grows_late", "sums_to_one"
    keeps = frozenset({"nonnegative", "permutation_equivariant", "scale_free", "task_scale_free"})

    def weights(self, now: Observation) -> Tensor:
        return self.reply(self.ratios(now).softmax(-1) * (1 if self.steps < 10 else 1 + 1e-6), now)


class ForgetsK(Broken):
    """A softmax without the factor K."""

    name, breaks = "forgets_k", "sums_to_num_tasks"
    keeps = frozenset({"nonnegative", "sums_to_one", "permutation_equivariant", "scale_free", "task_scale_free"})

    def weights(self, now: Observation) -> Tensor:
        return self.reply(self.ratios(now).softmax(-1), now)


class HasAFavourite(Broken):
    """Every task counts a little more than the one before."""

    name, breaks = "has_a_favourite", "permutation_equivariant"
    keeps = frozenset({"nonnegative", "sums_to_one", "scale_free", "task_scale_free"})

    def weights(self, now: Observation) -> Tensor:
        bonus = 1e-6 * torch.arange(self.num_tasks, dtype=torch.float64)
        return self.reply((self.ratios(now) + bonus).softmax(-1), now)


class FeelsTheScale(Broken):
    """Softmax of raw losses."""

    name, breaks = "feels_the_scale", "scale_free"
    keeps = frozenset({"nonnegative", "sums_to_one", "permutation_equivariant"})

    def weights(self, now: Observation) -> Tensor:
        losses = self.read(now, "losses")
        return self.reply((-losses / (1 + losses)).softmax(-1), now)


class FeelsTaskScales(Broken):
    """Weights in proportion to the losses: a common factor cancels, one task's own does not."""

    name, breaks = "feels_task_scales", "task_scale_free"
    keeps = frozenset({"nonnegative", "sums_to_one", "permutation_equivariant", "scale_free"})

    def weights(self, now: Observation) -> Tensor:
        losses = self.read(now, "losses")
        return self.reply(losses / losses.sum(), now)


BROKEN: tuple[type[Broken], ...] = (TurnsNegative, GrowsLate, ForgetsK, HasAFavourite, FeelsTheScale, FeelsTaskScales)
