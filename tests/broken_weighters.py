"""Methods with one planted fault each. Every one claims all it keeps, and the one property that it breaks."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from weighting import Claim, Needs, Observation, Weighter
from weighting.coba import CoBa
from weighting.coba_ablations import CoBaRelative


class Broken(Weighter):
    """Breaks one claim and keeps others."""

    breaks: ClassVar[Claim]
    keeps: ClassVar[Claim]

    def __init__(self, num_tasks: int, **hyperparameters: Any) -> None:
        super().__init__(num_tasks, **hyperparameters)


class BrokenOnRatios(Broken):
    """Knows each task's loss relative to the first one, r_i = L_i(t) / L_i(0), and how many steps were made."""

    initial: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.add_state("initial", 1.0)
        self.steps = 0

    def start(self, first: Observation) -> None:
        self.initial.copy_(self.read(first, "losses"))

    def update(self, after: Observation) -> None:
        self.steps += 1

    def ratios(self, now: Observation) -> Tensor:
        return self.read(now, "losses") / self.initial


class TurnsNegative(BrokenOnRatios):
    """The weight of a task far above the others in r falls below zero."""

    name, breaks = "turns_negative", Claim.NONNEGATIVE
    keeps = Claim.SUMS_TO_NUM_TASKS | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        ratios = self.ratios(now)
        return self.as_weights(1 - 10 * (ratios - ratios.mean()), now)


class GrowsLate(BrokenOnRatios):
    """Sums to one for ten steps, to a millionth more from then on."""

    name, breaks = "grows_late", Claim.SUMS_TO_ONE
    keeps = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.ratios(now).softmax(-1) * (1 if self.steps < 10 else 1 + 1e-6), now)


class ForgetsK(BrokenOnRatios):
    """A softmax without the factor K."""

    name, breaks = "forgets_k", Claim.SUMS_TO_NUM_TASKS
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.ratios(now).softmax(-1), now)


class HasAFavourite(BrokenOnRatios):
    """Every task counts a little more than the one before."""

    name, breaks = "has_a_favourite", Claim.PERMUTATION_EQUIVARIANT
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        bonus = 1e-6 * torch.arange(self.num_tasks, dtype=torch.float64)
        return self.as_weights((self.ratios(now) + bonus).softmax(-1), now)


class FeelsTheScale(BrokenOnRatios):
    """Softmax of raw losses."""

    name, breaks = "feels_the_scale", Claim.SCALE_FREE
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT

    def weights(self, now: Observation) -> Tensor:
        losses = self.read(now, "losses")
        return self.as_weights((-losses / (1 + losses)).softmax(-1), now)


class FeelsTaskScales(BrokenOnRatios):
    """Weights in proportion to the losses: a common factor cancels, one task's own does not."""

    name, breaks = "feels_task_scales", Claim.TASK_SCALE_FREE
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        losses = self.read(now, "losses")
        return self.as_weights(losses / losses.sum(), now)


class Overflows(BrokenOnRatios):
    """A softmax of losses that divides the infinite by the infinite."""

    name, breaks = "overflows", Claim.FINITE_ON_EXTREME_LOSSES
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        sizes = self.ratios(now).exp()
        return self.as_weights(sizes / sizes.sum(), now)


class FavoursTheFastest(BrokenOnRatios):
    """A softmax of ratios with the sign flipped."""

    name, breaks = "favours_the_fastest", Claim.FAVOURS_THE_SLOWEST
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights((-self.ratios(now)).softmax(-1), now)


class TakesTheRoot(BrokenOnRatios):
    """1 / sqrt(L), half of the way from equal weights to balanced losses."""

    name, breaks = "takes_the_root", Claim.BALANCES_LOSSES
    keeps = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.read(now, "losses").rsqrt(), now)


class AddsTooMuch(BrokenOnRatios):
    """Divides by the losses, after adding a constant that is not small beside them."""

    name, breaks = "adds_too_much", Claim.UNDOES_TASK_SCALES
    keeps = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(1 / (self.read(now, "losses") + 10), now)


class StartsTooSoon(BrokenOnRatios):
    """Ends its warm-up a step early."""

    name, breaks = "starts_too_soon", Claim.UNIFORM_UNTIL_WARMUP_ENDS
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.FAVOURS_THE_SLOWEST
    warmup: int

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.warmup = 5

    def weights(self, now: Observation) -> Tensor:
        ratios = self.ratios(now)
        return self.as_weights((ratios if self.steps >= self.warmup - 1 else torch.zeros_like(ratios)).softmax(-1), now)


class NeverTurnsAway(Broken, CoBaRelative):
    """Relative scores alone: a task that diverges has the largest slope, and so the largest weight."""

    name, breaks = "never_turns_away", Claim.TURNED_TASK_LOSES_WEIGHT
    keeps = CoBa.claims & ~breaks

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks, warmup=3, window=6)


class ForgetsTheCount(Broken, CoBa):
    """A divergence factor without the number of slopes in front: near 0 instead of 1 at a steady pace."""

    name, breaks = "forgets_the_count", Claim.DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks, warmup=3, window=6)

    def divergence_factor(self, updates: int) -> Tensor:
        return super().divergence_factor(updates) / max(1, self._slopes_after(updates))


class BrokenOnGradients(Broken):
    """Reads the Gramian."""

    needs = Needs.GRAMIAN
    keeps = Claim.NOTHING

    def gramian(self, now: Observation) -> Tensor:
        return self.read(now, "gramian")


class OpposesTheStrongest(BrokenOnGradients):
    """The sum of all gradients, with the longest one turned round."""

    name, breaks = "opposes_the_strongest", Claim.OPPOSES_NO_TASK

    def weights(self, now: Observation) -> Tensor:
        squares = self.gramian(now).diagonal(dim1=-2, dim2=-1)
        return self.as_weights(torch.where(squares == squares.amax(-1, keepdim=True), -1.0, 0.1), now)


class IgnoresTheCosines(BrokenOnGradients):
    """The shortest point of the simplex if the gradients were orthogonal."""

    name, breaks = "ignores_the_cosines", Claim.SHORTEST_IN_THE_SIMPLEX
    keeps = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE

    def weights(self, now: Observation) -> Tensor:
        inverse = 1 / self.gramian(now).diagonal(dim1=-2, dim2=-1)
        return self.as_weights(inverse / inverse.sum(-1, keepdim=True), now)


class StaysAtTheMean(BrokenOnGradients):
    """The mean gradient, where another one at a distance from it is better for the worst task."""

    name, breaks = "stays_at_the_mean", Claim.BEST_FOR_THE_WORST_TASK

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.c = 0.4

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(torch.full_like(self.read(now, "losses"), 1 / self.num_tasks), now)


class SumsUnprojected(BrokenOnGradients):
    """The mean gradient without any projection."""

    name, breaks = "sums_unprojected", Claim.SUMS_PROJECTIONS

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(torch.full_like(self.read(now, "losses"), 1 / self.num_tasks), now)


class SumsUnitGradients(BrokenOnGradients):
    """Unit gradients summed: equal projections only where all cosines are the same."""

    name, breaks = "sums_unit_gradients", Claim.EQUAL_PROJECTIONS

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.gramian(now).diagonal(dim1=-2, dim2=-1).rsqrt(), now)


class BargainsAlone(BrokenOnGradients):
    """Every task takes what it would get if it were alone."""

    name, breaks = "bargains_alone", Claim.EQUAL_GAINS
    keeps = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.gramian(now).diagonal(dim1=-2, dim2=-1).rsqrt(), now)


class StepsAlongTheMean(Broken):
    """The weights follow the mean of all hypergradients, which may raise one task's validation loss."""

    name, breaks = "steps_along_the_mean", Claim.RAISES_NO_QUERY_LOSS
    needs, answers_from = Needs.CROSS_GRAMIAN, "state"
    keeps = Claim.PERMUTATION_EQUIVARIANT
    learned: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.add_state("learned", 1.0)

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.learned, now)

    def update(self, after: Observation) -> None:
        self.learned.add_(0.01 * self.read(after, "cross_gramian").mean(-2))


BROKEN: tuple[type[Broken], ...] = (
    TurnsNegative,
    GrowsLate,
    ForgetsK,
    HasAFavourite,
    FeelsTheScale,
    FeelsTaskScales,
    Overflows,
    FavoursTheFastest,
    TakesTheRoot,
    AddsTooMuch,
    StartsTooSoon,
    NeverTurnsAway,
    ForgetsTheCount,
    OpposesTheStrongest,
    IgnoresTheCosines,
    StaysAtTheMean,
    SumsUnprojected,
    SumsUnitGradients,
    BargainsAlone,
    StepsAlongTheMean,
)
