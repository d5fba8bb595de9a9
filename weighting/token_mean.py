"""Token mean: every token counts the same, as in the loss that training loops of language models take by default.

Source    No paper: the mean cross-entropy over all tokens of a batch, whatever their task, is what trainers minimise when
          nobody asks for anything else. MFTCoder (Liu et al., KDD 2024, arXiv:2311.02303, not consulted) sets its mean per
          task against it.
Symbols   n_i tokens (units) of task i in the batch, L_i mean loss over them; the mean over all tokens is
          sum_i n_i L_i / sum_j n_j, hence w_i = n_i / sum_j n_j. The weights sum to 1.
Departs   nowhere. Where a problem does not count, the units are the rows of the batch, and w_i = 1/K.
"""

from __future__ import annotations

from torch import Tensor

from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Observation


class TokenMean(Weighter):
    """Weights in the proportion of the counts: a task with more tokens in the batch counts for more.

    >>> from weighting import Observation, create
    >>> create("token_mean", 3).weights(Observation(losses=[5.0, 1.0, 0.1], counts=[6, 3, 1])).tolist()
    [0.6, 0.3, 0.1]
    """

    name = "token_mean"
    adaptive = False
    answers_from = "state"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_ONE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.TASK_SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
    )

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, sum 1 over the tasks that are present, ``(*batch_shape, K)``."""
        present = self.present(now).double()
        units = present if now.counts is None else present * now.counts
        # A batch without any task has no units to divide by, and all its weights are 0.
        return self.as_weights(units / units.sum(-1, keepdim=True).clamp(min=1e-300), now)
