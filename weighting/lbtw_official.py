"""Loss-balanced task weighting as its authors' code has it: the weights are rescaled to the sum K.

Source    chao1224/Loss-Balanced-Task-Weighting@63ee7d8, src/pcba_run.py.
Symbols   those of ``weighting.lbtw``; w_i = K v_i / sum_j v_j over the present tasks, v_i = (L_i(t) / L_i(0))^alpha.
Departs   from the rule that papers quote as that code does: L_i(0) is taken anew in the first batch of each epoch
          (``restart_every`` steps), and the weights of the present tasks are rescaled. From that code: where all losses are
          0 equal weights are taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weighting.claim import Claim
from weighting.lbtw import LossBalanced
from weighting.observation import Observation


class RescaledLossBalanced(LossBalanced):
    """(L_i(t) / L_i(0))^alpha, rescaled to the sum K.

    Hyperparameters are those of LossBalanced.

    Raises ValueError on a negative loss.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[4.0, 4.0]), Observation(losses=[1.0, 4.0])]
    >>> replay(create("lbtw_official", 2), log)[-1].round(decimals=3).tolist()
    [0.667, 1.333]
    """

    name = "lbtw_official"
    variant_of = "lbtw"
    claims = LossBalanced.claims | Claim.SUMS_TO_NUM_TASKS
    guards = {"zero_losses": "all losses were 0: equal weights were taken"}

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, sum K over the present tasks, ``(*batch_shape, K)``."""
        weights = super().weights(now)
        total = weights.sum(-1, keepdim=True)
        return self.as_weights(torch.where(total > 0, self.num_tasks * weights / total, torch.ones_like(weights)), now)

    def update(self, after: Observation) -> None:
        """Remember the losses of tasks that had none; count steps without any loss above 0."""
        super().update(after)
        losses, present = self.read(after, "losses"), self.present(after)
        self.count_guard("zero_losses", (present.logical_not() | (losses == 0)).all(-1) & present.any(-1))
