"""Logarithm transformation: the total is the sum of log(L + 1e-8), the part of DB-MTL that reads nothing but the losses.

Source    Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Kwok, Dual-Balancing for Multi-Task Learning, arXiv:2308.12029 (not
          consulted), the loss-balancing part; numbers checked against the authors' code in LibMTL (traces).
Symbols   total = sum_i log(L_i + 1e-8); hence w_i = 1 / (L_i + 1e-8). The sum of the weights is free and grows as the losses
          fall, to 1e8 for a loss of 0.
Departs   nowhere. ``weighting.db_mtl`` has the gradients as well, ``weighting.scale_invariant`` the sum without 1e-8, in
          which a loss of 0 has no logarithm.
"""

from __future__ import annotations

from torch import Tensor

from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Observation

EPSILON = 1e-8


class LogTransform(Weighter):
    """1 / (L_i + 1e-8).

    Raises ValueError on a negative loss, which has no logarithm.

    >>> from weighting import Observation, create
    >>> create("log_transform", 2).weights(Observation(losses=[0.5, 4.0])).round(decimals=6).tolist()
    [2.0, 0.25]
    """

    name = "log_transform"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES | Claim.UNDOES_TASK_SCALES
    guards = REFUSED_LOSS

    def weights(self, now: Observation) -> Tensor:
        """Positive, ``(*batch_shape, K)``."""
        return self.as_weights(1 / (self.read(now, "losses") + EPSILON), now)

    def allowed(self, losses: Tensor) -> Tensor:
        """Those with a logarithm, and 0."""
        return losses >= 0
