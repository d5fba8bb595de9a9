"""Uniform weighting: the plain sum of the losses, the baseline of every comparison.

Source    Also called equal weighting (EW), linear scalarization (LS) or unitary scalarization; e.g. Kurin et al., In
          Defense of the Unitary Scalarization for Deep Multi-Task Learning, NeurIPS 2022, arXiv:2201.04122.
Symbols   w_i = 1 for each of the K tasks.
Departs   nowhere. Works that write 1/K differ by a constant factor, which acts as a learning rate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Observation


class Uniform(Weighter):
    """Every task counts once: w_i = 1.

    >>> from weighting import Observation, create
    >>> create("uniform", 3).weights(Observation(losses=[5.0, 1.0, 0.1])).tolist()
    [1.0, 1.0, 1.0]
    """

    name = "uniform"
    adaptive = False
    answers_from = "state"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_NUM_TASKS
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.TASK_SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
    )

    def weights(self, now: Observation) -> Tensor:
        """All ones, ``(*batch_shape, K)``."""
        return self.as_weights(self.clock.new_ones(self.shape, dtype=torch.float64), now)
