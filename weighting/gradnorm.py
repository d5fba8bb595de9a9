"""GradNorm: weights are moved until all tasks train at similar rates, seen in the norms of their gradients.

Source    Chen, Badrinarayanan, Lee, Rabinovich, GradNorm, ICML 2018, arXiv:1711.02257, Algorithm 1, Eqs. (1) and (2).
Symbols   n_i norm of the unweighted gradient of L_i at the shared layer W; G_i = w_i n_i; G_mean their mean over tasks;
          r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)), the relative inverse training rate; alpha the asymmetry;
          objective sum_i |G_i - G_mean r_i^alpha| with the target held constant, whose gradient with respect to w_i is
          sign(G_i - G_mean r_i^alpha) n_i: no double backward. After the step, w <- K w / sum(w).
Departs   nowhere. The paper does not keep the weights from turning negative, nor is it done here. L_i(0) is the first
          loss seen (the paper's log(C) for classification is an alternative it mentions).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting.base import Needs, Observation, Weighter, check
from weighting.optimizers import ElementOptimizer, OptimizerName


class GradNorm(Weighter):
    """Learned weights with sum K that balance gradient norms.

    alpha          strength of the pull towards equal training rates; 0: equal gradient norms
    lr, optimizer  of the weights' own optimizer: "adam" or "sgd"
    """

    name = "gradnorm"
    needs = Needs.GRAD_NORMS
    claims = frozenset({"sums_to_num_tasks", "permutation_equivariant"})
    search = {"alpha": (0.12, 0.5, 1.0, 1.5, 2.0)}

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        alpha: float = 1.5,
        lr: float = 0.025,
        optimizer: OptimizerName = "adam",
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        check(self.name, "alpha", alpha, least=0)
        self.alpha = alpha
        self.add_state("current", 1.0)
        self.add_state("initial_losses", float("nan"))
        self.current: Tensor
        self.initial_losses: Tensor
        self.optimizer = ElementOptimizer(self.name, self.shape, optimizer=optimizer, lr=lr)

    def start(self, first: Observation) -> None:
        """Remember the initial losses."""
        self._remember(self.read(first, "losses"), self.present(first))

    def weights(self, now: Observation) -> Tensor:
        """Sum K, ``(*batch_shape, K)``."""
        return self.reply(self.current, now)

    def update(self, after: Observation) -> None:
        """One gradient step on the weights, then the renormalisation."""
        losses, norms, present = self.read(after, "losses"), self.read(after, "grad_norms"), self.present(after)
        self._remember(losses, present)
        weighted = self.current * norms
        rate = losses / self.initial_losses
        relative_rate = rate / _mean(rate, present)
        target = _mean(weighted, present) * relative_rate**self.alpha
        gradient = torch.sign(weighted - target) * norms
        self.optimizer.step(self.current, gradient, present)
        self._renormalise(present)

    def _remember(self, losses: Tensor, present: Tensor) -> None:
        new = self.initial_losses.isnan() & present
        self.initial_losses.copy_(torch.where(new, losses, self.initial_losses))

    def _renormalise(self, present: Tensor) -> None:
        """Rescale the present tasks so that all K weights sum to K; absent ones keep theirs."""
        kept = torch.where(present, torch.zeros_like(self.current), self.current).sum(-1, keepdim=True)
        moved = torch.where(present, self.current, torch.zeros_like(self.current)).sum(-1, keepdim=True)
        self.current.copy_(torch.where(present, self.current * (self.num_tasks - kept) / moved, self.current))


def _mean(values: Tensor, present: Tensor) -> Tensor:
    """Mean over the present tasks, ``(*batch_shape, 1)``."""
    masked = torch.where(present, values, torch.zeros_like(values))
    return masked.sum(-1, keepdim=True) / present.sum(-1, keepdim=True)
