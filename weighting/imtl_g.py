"""Impartial multi-task learning, gradient balance (IMTL-G): the update has the same projection on every unit gradient.

Source    Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, Towards Impartial Multi-task Learning, ICLR 2021 (not consulted);
          numbers checked against nash-mtl's code (traces).
Symbols   G Gramian, n norms; w = G^-1 n / (1'G^-1 n), which sums to 1 and may be negative. In unit gradients, with their
          cosines C: C y = 1, w_i = (y_i / n_i) / sum_j y_j / n_j.
Departs   from nash-mtl's code where G is singular: there one of two equal tasks gets the weight 0, here both the same; of
          exactly opposite gradients the weights are those that cancel them, as there. A gradient of 0 has no direction: its
          task gets the weight 0. Where the sum is 0, so that nothing can be divided by it, each unit gradient counts the
          same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weighting._gramian import Gradients, _FromGramian, gradients, solve_on
from weighting.claim import Claim
from weighting.observation import Observation

SMALLEST_SUM = 1e-8
"""Of the weights before they are divided by their sum, relative to the sum of their sizes."""


class ImpartialGradient(_FromGramian):
    """G^-1 n, rescaled to the sum 1.

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, 0.0], [0.0, 4.0]])
    >>> create("imtl_g", 2).weights(now).round(decimals=6).tolist()
    [0.666667, 0.333333]
    """

    name = "imtl_g"
    acts_on = "shared"
    claims = (
        Claim.SUMS_TO_ONE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.EQUAL_PROJECTIONS
    )
    guards = {"sum_near_zero": "the weights before rescaling summed to nearly 0: each unit gradient counted the same"}

    def rule(self, seen: Gradients) -> Tensor:
        """w, sum 1, of any sign."""
        found, shares = self._unscaled(seen)
        inverse = torch.where(seen.counts, 1 / seen.norms, 0.0)
        least = torch.where(seen.counts, seen.norms, float("inf")).amin(-1, keepdim=True)
        found = torch.where(shares, found, inverse) * least.nan_to_num(posinf=1.0)
        return found / found.sum(-1, keepdim=True)

    def update(self, after: Observation) -> None:
        """Count what the rule has no answer for."""
        super().update(after)
        seen = gradients(self.read(after, "gramian"), self.present(after))
        self.count_guard("sum_near_zero", (self._unscaled(seen)[1].squeeze(-1) | ~seen.counts.any(-1)).logical_not())

    def _unscaled(self, seen: Gradients) -> tuple[Tensor, Tensor]:
        """The weights before rescaling, and whether they have a sum to divide by: bool ``(*batch_shape, 1)``."""
        ones = torch.ones_like(seen.norms).unsqueeze(-1)
        found = solve_on(seen.cosines, ones, seen.counts).squeeze(-1) / seen.norms
        sum_, sizes = found.sum(-1, keepdim=True), found.abs().sum(-1, keepdim=True)
        return found, sum_.abs() > SMALLEST_SUM * sizes
