"""Geometric loss strategy (GLS): the total is the geometric mean of the losses.

Source    Chennupati, Sistu, Yogamani, Rawashdeh, MultiNet++, CVPR Workshops 2019, arXiv:1904.08492 (not
          consulted); numbers checked against LibMTL's loss (traces).
Symbols   G = (prod_i L_i)^(1/K); total = G; hence w_i = dG / dL_i = G / (K L_i). A common scale of the losses changes
          nothing; their sum is at least 1 and free.
Departs   The product is taken in logarithms, so it neither over- nor underflows. The mean is over the tasks that are
          present and have a loss above zero: with a loss of 0, G and all other weights would be 0 and training would stop.
          LibMTL reports L_i / (K prod L) as its weight, which is not the coefficient that acts there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Observation


class GeometricLoss(Weighter):
    """G / (K L_i).

    Raises ValueError on a negative loss, which has no geometric mean.

    >>> from weighting import Observation, create
    >>> create("gls", 2).weights(Observation(losses=[1.0, 4.0])).tolist()
    [1.0, 0.25]
    """

    name = "gls"
    claims = (
        Claim.NONNEGATIVE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.UNDOES_TASK_SCALES
        | Claim.BALANCES_LOSSES
    )
    guards = {"zero_loss": "a loss of exactly 0 was left out of the mean, with weight 0", **REFUSED_LOSS}

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, sum at least 1, ``(*batch_shape, K)``."""
        losses, present = self.read(now, "losses"), self.present(now)
        counted = present & (losses > 0)
        number = counted.sum(-1, keepdim=True).clamp(min=1)
        logs = torch.where(counted, losses, torch.ones_like(losses)).log()
        weights = (logs.sum(-1, keepdim=True) / number - logs).exp() / number
        return self.as_weights(torch.where(counted, weights, torch.zeros_like(weights)), now)

    def update(self, after: Observation) -> None:
        """Count losses of zero."""
        self.count_guard("zero_loss", (self.read(after, "losses") == 0).any(-1))

    def allowed(self, losses: Tensor) -> Tensor:
        """Those with a logarithm, and 0."""
        return losses >= 0
