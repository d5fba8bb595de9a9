"""FairGrad: alpha-fair shares of the progress that an update makes on each task.

Source    Ban, Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024, arXiv:2402.15638 (not consulted); numbers
          checked against the authors' code (traces).
Symbols   G Gramian; w > 0 solves (Gw)_i = w_i^(-1 / alpha). alpha = 1 is Nash-MTL; larger alpha looks at the worst task
          more. A common factor f on the losses multiplies w by f^(-2 alpha / (1 + alpha)). The sum is free.
Departs   from the authors' code in the factor K and the clip of the shared gradient to norm 1 that follow there: both are
          left to the learning rate. Solved by Newton's method in units w_i = k_i z_i, k_i = G_ii^(-alpha / (1 + alpha)), in
          which G = 1 has the solution 1. Where there is no solution, and for a gradient of 0, as in ``weighting.nash_mtl``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from weighting._checks import check
from weighting._gramian import Gradients, LastAnswer, _FromGramian, equal_shares, gradients
from weighting.claim import Claim
from weighting.observation import Observation


class FairGradient(_FromGramian):
    """The solution of Gw = w^(-1 / alpha).

    alpha  > 0

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, 0.0], [0.0, 8.0]])
    >>> create("fairgrad", 2, alpha=2.0).weights(now).round(decimals=6).tolist()
    [1.0, 0.25]
    """

    name = "fairgrad"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES | Claim.OPPOSES_NO_TASK
    search = {"alpha": (0.5, 1.0, 2.0)}
    guards = {"no_bargain": "the gradients cancel for some weights above 0: a millionth was added to the diagonal"}

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), alpha: float = 1.0) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.alpha: float = check(self.name, "alpha", alpha, gt=0)
        self._last = LastAnswer()

    def rule(self, seen: Gradients) -> Tensor:
        """w, above 0 for the tasks that count."""
        return torch.where(seen.counts, self._units(seen) * self._solved(seen)[0], 0.0)

    def update(self, after: Observation) -> None:
        """Count what the rule has no answer for."""
        super().update(after)
        seen = gradients(self.read(after, "gramian"), self.present(after))
        self.count_guard("no_bargain", self._solved(seen)[1])

    def _units(self, seen: Gradients) -> Tensor:
        return seen.norms ** (-2 * self.alpha / (1 + self.alpha))

    def _solved(self, seen: Gradients) -> tuple[Tensor, Tensor]:
        """z and whether there is none, from S z = diag(S) z^(-1 / alpha), S_ij = k_i G_ij k_j."""
        scale = self._units(seen) * seen.norms
        scale = torch.where(seen.counts, scale, 1.0)
        matrix = seen.cosines * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        return self._last(partial(equal_shares, power=1 / self.alpha), matrix, scale**2)
