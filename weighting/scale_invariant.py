"""Scale-invariant weighting (SI): the total is the sum of the log-losses.

Source    The baseline "SI" of Navon et al., Nash-MTL, ICML 2022, arXiv:2202.01017, and of Liu et al., FAMO, NeurIPS 2023,
          arXiv:2306.03792, section 5: minimise sum_i log L_i.
Symbols   total = sum_i log L_i; hence w_i = 1 / L_i. The gradient of a task does not change when its loss is scaled; the
          sum of the weights is free and grows as the losses fall.
Departs   A loss of exactly 0 has no logarithm: its task gets weight 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Observation


class ScaleInvariant(Weighter):
    """1 / L_i.

    Raises ValueError on a negative loss, which has no logarithm.

    >>> from weighting import Observation, create
    >>> create("scale_invariant", 2).weights(Observation(losses=[0.5, 4.0])).tolist()
    [2.0, 0.25]
    """

    name = "scale_invariant"
    claims = (
        Claim.NONNEGATIVE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.UNDOES_TASK_SCALES
        | Claim.BALANCES_LOSSES
    )
    guards = {"zero_loss": "a loss of exactly 0 got weight 0", **REFUSED_LOSS}

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, ``(*batch_shape, K)``."""
        losses = self.read(now, "losses")
        return self.as_weights(torch.where(losses > 0, 1 / losses, 0.0), now)

    def update(self, after: Observation) -> None:
        """Count losses of zero."""
        self.count_guard("zero_loss", (self.read(after, "losses") == 0).any(-1))

    def allowed(self, losses: Tensor) -> Tensor:
        """Those with a logarithm, and 0."""
        return losses >= 0
