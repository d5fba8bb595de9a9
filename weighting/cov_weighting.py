"""CoV-Weighting: a task counts by the coefficient of variation of its loss relative to what the loss was on average.

Source    Groenendijk, Karaoglu, Gevers, Mensink, Multi-Loss Weighting with Coefficient of Variations, WACV 2021,
          arXiv:2009.01717 (not consulted); numbers checked against the authors' code, rickgroen/cov-weighting@64c2966,
          losses/covweighting_loss.py (traces).
Symbols   l_i(t) = L_i(t) / (mean of L_i before step t), and 1 at first; c_i = sigma_i / mu_i, standard deviation by mean of
          l_i over the steps before this one, sigma_i = sqrt(S_i / t + 1e-8), S_i by Welford's update;
          w_i = c_i / sum_j c_j, and 1 / K in the first two steps. The weights sum to 1.
Departs   from that code in precision, and where a number is missing: a task with fewer than two losses gets 1 / K, and one
          whose mean loss so far is 0 has the ratio 1. A negative loss is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting._checks import check
from weighting._shares import among_known
from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Observation

VARIANCE_FLOOR = 1e-8
"""Added to the variance, as in that code."""
LEAST_MEAN = 1e-8
"""Of the ratios: a mean below it, as of a loss that became 0, counts as this."""


class VariationWeighting(Weighter):
    """Coefficients of variation as shares.

    decay  m in (0, 1], of the means: mean <- m mean + (1 - m) new; 1: all steps count the same

    Raises ValueError on a negative loss.

    >>> from weighting import Observation, create, replay
    >>> losses = ([4.0, 1.0], [4.0, 1.0], [2.0, 1.1], [2.0, 1.0])
    >>> replay(create("cov_weighting", 2), [Observation(losses=row) for row in losses])[-1].round(decimals=3).tolist()
    [0.875, 0.125]
    """

    name = "cov_weighting"
    answers_from = "state"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_ONE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.TASK_SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
    )
    guards = {"zero_mean": "the mean loss so far was 0: the ratio 1 was taken", **REFUSED_LOSS}

    count: Tensor
    mean_loss: Tensor
    mean_ratio: Tensor
    squares: Tensor

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), decay: float = 1.0) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.decay: float = check(self.name, "decay", decay, gt=0, le=1)
        for name in ("count", "mean_loss", "mean_ratio", "squares"):
            self.add_state(name, 0.0)

    def probes(self) -> dict[str, Tensor]:
        """The coefficient of variation c, 0 where it is not known."""
        return {"variation": torch.where(self._known(), self._variation(), 0.0)}

    def weights(self, now: Observation) -> Tensor:
        """Positive, sum 1 with all tasks present, ``(*batch_shape, K)``."""
        variation = torch.where(self._known(), self._variation(), 0.0)
        return self.as_weights(among_known(variation / variation.sum(-1, keepdim=True), self._known()), now)

    def update(self, after: Observation) -> None:
        """Take the losses, and their ratios to the mean so far, into the statistics."""
        losses, present = self.read(after, "losses"), self.present(after)
        has_mean = self.mean_loss > 0
        self.count_guard("zero_mean", (present & (self.count > 0) & has_mean.logical_not()).any(-1))
        # Ratios whose squares would overflow are cut.
        largest = torch.finfo(losses.dtype).max ** 0.25
        ratio = torch.where(has_mean, losses / self.mean_loss, 1.0).clamp(max=largest)
        kept = self._kept()
        mean_loss, mean_ratio = torch.lerp(losses, self.mean_loss, kept), torch.lerp(ratio, self.mean_ratio, kept)
        self.squares.add_(torch.where(present, (ratio - self.mean_ratio) * (ratio - mean_ratio), 0.0))
        self.mean_loss.copy_(torch.where(present, mean_loss, self.mean_loss))
        self.mean_ratio.copy_(torch.where(present, mean_ratio, self.mean_ratio))
        self.count.add_(present)

    def allowed(self, losses: Tensor) -> Tensor:
        """Those whose mean is not made of both signs."""
        return losses >= 0

    def _kept(self) -> Tensor:
        """The share of the old mean in the new one, ``(*batch_shape, K)``."""
        if self.decay == 1:
            return self.count / (self.count + 1)
        return torch.where(self.count > 0, self.decay, torch.zeros_like(self.count))

    def _known(self) -> Tensor:
        return self.count >= 2

    def _variation(self) -> Tensor:
        deviation = (self.squares / self.count.clamp(min=1) + VARIANCE_FLOOR).sqrt()
        return deviation / self.mean_ratio.clamp(min=LEAST_MEAN)
