"""GradNorm: weights are moved until all tasks train at similar rates, seen in the norms of their gradients.

Source    Chen, Badrinarayanan, Lee, Rabinovich, GradNorm, ICML 2018, arXiv:1711.02257, Algorithm 1, Eqs. (1) and (2).
Symbols   n_i norm of the unweighted gradient of L_i at the shared layer W; G_i = |w_i| n_i, that of the gradient of w_i L_i;
          G_mean their mean over tasks; r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)), the relative inverse training rate;
          alpha the asymmetry; objective sum_i |G_i - G_mean r_i^alpha| with the target held constant, whose gradient with
          respect to w_i is sign(G_i - G_mean r_i^alpha) sign(w_i) n_i: no double backward. Then w <- K w / sum(w).
Departs   from the paper in one thing: ``floor``. Nothing in the paper's rule keeps a weight from crossing 0, and below 0 a
          task is trained to be worse, so weights are kept at or above a small positive number, as many implementations do.
          The paper's own figure of its ten regressions, in which GradNorm ends below equal weights, is met with the floor
          and not without it (docs/methods/gradnorm.md). ``floor=0`` is the rule as it is written.
          L_i(0) is the first loss seen (the paper's log(C) for classification is an alternative it mentions).
          A softmax instead of the rescaling: ``weighting.gradnorm_libmtl``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting._checks import check
from weighting._optimizers import ElementOptimizer, OptimizerName
from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Needs, Observation


class GradNorm(Weighter):
    """Learned weights with sum K that balance gradient norms.

    alpha                        strength of the pull towards equal training rates; 0: equal gradient norms
    lr, optimizer, weight_decay  of the weights' own optimizer, lr > 0: "adam" or "sgd"
    floor                        >= 0, below 1: the least weight; 0: none, the rule as it is written
    initial_steps                steps whose mean loss is L_i(0), with equal weights until then; 0: the first loss seen

    >>> from weighting import Observation, create, replay
    >>> step = Observation(losses=[1.0, 1.0], grad_norms=[4.0, 1.0])
    >>> replay(create("gradnorm", 2), [step] * 11)[-1].round(decimals=3).tolist()
    [0.775, 1.225]
    """

    name = "gradnorm"
    version = 2
    needs = Needs.GRAD_NORMS
    answers_from = "state"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_NUM_TASKS
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.FAVOURS_THE_SLOWEST
    )
    search = {"alpha": (0.12, 0.5, 1.0, 1.5, 2.0)}
    guards = {
        "zero_initial_loss": "a loss of exactly 0 could not be L(0): its task counted as if it had not moved yet",
        "floored": "a weight was below the floor and was raised to it",
        "negative_weight": "a weight was below 0: its task was trained to be worse",
        **REFUSED_LOSS,
    }

    current: Tensor
    initial_losses: Tensor
    initial_counts: Tensor
    relative_rate: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        alpha: float = 1.5,
        lr: float = 0.025,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        floor: float = 1e-3,
        initial_steps: int = 0,
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.alpha: float = check(self.name, "alpha", alpha, ge=0)
        self.floor: float = check(self.name, "floor", floor, ge=0, lt=1)
        if not self.floor:
            self.claims = self.claims & ~Claim.NONNEGATIVE
        self.initial_steps: int = check(self.name, "initial_steps", initial_steps, integer=True, ge=0)
        self.add_state("current", 1.0)
        self.add_state("initial_losses", float("nan"))
        self.add_state("initial_counts", 0.0)
        self.add_state("relative_rate", 1.0)
        """r of the last update, by which no later one goes."""
        self.optimizer = ElementOptimizer(self.name, self.shape, optimizer=optimizer, lr=lr, weight_decay=weight_decay)

    def probes(self) -> dict[str, Tensor]:
        """The relative inverse training rate r of the last update, 1 before there was one."""
        return {"relative_rate": self.relative_rate.clone()}

    def wants(self) -> Needs:
        """No gradient norms while L_i(0) is averaged."""
        return Needs.NOTHING if self._averages() else Needs.GRAD_NORMS

    def start(self, first: Observation) -> None:
        """Remember the initial losses, unless they are averaged."""
        if not self.initial_steps:
            self._remember(self.read(first, "losses"), self.present(first))

    def weights(self, now: Observation) -> Tensor:
        """Sum K, ``(*batch_shape, K)``."""
        return self.as_weights(self._weights(), now)

    def update(self, after: Observation) -> None:
        """One gradient step on the weights, then the renormalisation."""
        losses, present = self.read(after, "losses"), self.present(after)
        if self._averages():
            self._average(losses, present)
            return
        self._remember(losses, present)
        self._learn(self._gradient(losses, self.read(after, "grad_norms"), present), present)

    def _averages(self) -> bool:
        """Whether this step's losses still go into L_i(0)."""
        return self.initial_steps > 0 and self.num_updates < self.initial_steps

    def _weights(self) -> Tensor:
        return self.current

    def _learn(self, gradient: Tensor, present: Tensor) -> None:
        """One step against the gradient of the objective with respect to w."""
        self.optimizer.step(self.current, gradient, present)
        self._renormalise(present)

    def _gradient(self, losses: Tensor, norms: Tensor, present: Tensor) -> Tensor:
        """Of the objective with respect to w, 0 for absent tasks; notes the relative rates."""
        weights = self._weights()
        weighted = weights.abs() * norms
        rate = torch.where(self._lacks_initial(), 1.0, losses / self.initial_losses)
        mean = _mean(rate, present)
        relative_rate = torch.where(mean == 0, 1.0, rate / mean)
        self.relative_rate.copy_(torch.where(present, relative_rate, self.relative_rate))
        target = _mean(weighted, present) * relative_rate**self.alpha
        gradient = torch.sign(weighted - target) * torch.sign(weights) * norms
        return torch.where(present, gradient, torch.zeros_like(gradient))

    def _average(self, losses: Tensor, present: Tensor) -> None:
        """Take the losses into the means that are L_i(0)."""
        self.initial_counts.add_(present)
        before = self.initial_losses.nan_to_num(nan=0.0)
        mean = before + (losses - before) / self.initial_counts.clamp(min=1)
        self.initial_losses.copy_(torch.where(present, mean, self.initial_losses))

    def _remember(self, losses: Tensor, present: Tensor) -> None:
        new = self._lacks_initial() & present
        self.count_guard("zero_initial_loss", (new & (losses == 0)).any(-1))
        self.initial_losses.copy_(torch.where(new, losses, self.initial_losses))

    def _lacks_initial(self) -> Tensor:
        """Tasks without a first loss other than 0."""
        return self.initial_losses.isnan() | (self.initial_losses == 0)

    def allowed(self, losses: Tensor) -> Tensor:
        """Those that have a rate."""
        return losses >= 0

    def _renormalise(self, present: Tensor) -> None:
        """Rescale the present tasks so that all K weights sum to K and none is below the floor; absent ones keep theirs."""
        raised = self.current.clamp(min=self.floor) if self.floor else self.current
        budget = self.num_tasks - torch.where(present, 0.0, self.current).sum(-1, keepdim=True)
        moved = torch.where(present, raised, 0.0).sum(-1, keepdim=True)
        scaled = raised * budget / moved
        below = present & ((self.current < self.floor) | (scaled < self.floor))
        self.count_guard("floored" if self.floor else "negative_weight", below.any(-1))
        if self.floor:
            scaled = torch.where(below.any(-1, keepdim=True), self._above_floor(scaled, budget, present), scaled)
        self.current.copy_(torch.where(present, scaled, self.current))

    def _above_floor(self, weights: Tensor, budget: Tensor, present: Tensor) -> Tensor:
        """The present tasks' weights at or above the floor with the sum ``budget``: what is above it is rescaled."""
        above = torch.where(present, weights.clamp(min=self.floor) - self.floor, 0.0)
        left = budget - self.floor * present.sum(-1, keepdim=True)
        return self.floor + above * left / above.sum(-1, keepdim=True)


def _mean(values: Tensor, present: Tensor) -> Tensor:
    """Mean over the present tasks, ``(*batch_shape, 1)``."""
    masked = torch.where(present, values, torch.zeros_like(values))
    return masked.sum(-1, keepdim=True) / present.sum(-1, keepdim=True)
