"""Lag weighting, a method of one's own: the tasks that have come down least from their first loss count most.

Source    None: an example of how a method is written, not one from a paper.
Symbols   m_i running mean of L_i with decay beta; f_i its first value; w = K softmax(p m_i / f_i), p the power. The weights
          sum to K, so the step stays as large as that of the plain sum.
Departs   A task without a loss above zero so far counts with the ratio 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting import Claim, Observation, Weighter
from weighting._checks import check


class LagWeighting(Weighter):
    """K times the softmax of the share of its first loss that each task has left.

    power  >= 0; 0 is the plain sum
    beta   decay of the running mean per step, in [0, 1)
    """

    name = "lag"
    answers_from = "state"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_NUM_TASKS
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.TASK_SCALE_FREE
    )
    search = {"power": (0.5, 1.0, 2.0)}

    first: Tensor
    mean: Tensor

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), power: float = 1.0, beta: float = 0.9) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        check(self.name, "power", power, ge=0)
        check(self.name, "beta", beta, ge=0, lt=1)
        self.power, self.beta = power, beta
        self.add_state("first", float("nan"))
        self.add_state("mean", float("nan"))

    def weights(self, now: Observation) -> Tensor:
        """Positive, sum K, ``(*batch_shape, K)``."""
        left = torch.where(self.first.isnan(), torch.ones_like(self.first), self.mean / self.first)
        return self.as_weights(self.num_tasks * (self.power * left).softmax(-1), now)

    def update(self, after: Observation) -> None:
        """Take the step's losses into the running means; absent tasks keep theirs."""
        losses, present = self.read(after, "losses"), self.present(after)
        new = self.first.isnan() & present & (losses > 0)
        known = present & ~self.first.isnan()
        self.mean.copy_(torch.where(known, torch.lerp(losses, self.mean, self.beta), torch.where(new, losses, self.mean)))
        self.first.copy_(torch.where(new, losses, self.first))
