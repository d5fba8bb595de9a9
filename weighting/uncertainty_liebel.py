"""Uncertainty weighting with a regularizer that is never negative: log(1 + sigma^2) in the place of log sigma.

Source    Liebel, Koerner, Auxiliary Tasks in Multi-task Learning, arXiv:1805.06334 (not consulted), as its best-known
          implementation has it, Mikoto10032/AutomaticWeightedLoss@454ed80.
Symbols   c_i^2 = exp(s_i), s_i as in ``weighting.uncertainty``; total = sum_i L_i / (2 c_i^2) + log(1 + c_i^2); hence
          w_i = exp(-s_i) / 2 and d total / d s_i = 1 / (1 + exp(-s_i)) - L_i exp(-s_i) / 2. The sum of the weights is free.
Departs   from the paper in what is trained: there c itself, by the model's optimizer; here its log-variance, by one of its
          own, so that no step takes c through 0, where the weight is infinite. The objective is the same, and so is the
          start at c = 1.
"""

from __future__ import annotations

from torch import Tensor

from weighting.uncertainty import UncertaintyWeighting


class RegularizedUncertainty(UncertaintyWeighting):
    """w = exp(-s) / 2 with learned log-variances s, and a total that is never below 0.

    Hyperparameters are those of UncertaintyWeighting.

    >>> from weighting import Observation, create, replay
    >>> step = Observation(losses=[4.0, 0.25])
    >>> replay(create("uncertainty_liebel", 2), [step] * 101)[-1].round(decimals=3).tolist()
    [0.182, 1.18]
    """

    name = "uncertainty_liebel"
    variant_of = "uncertainty"

    def gradient(self, losses: Tensor) -> Tensor:
        """Of the total with respect to s, ``(*batch_shape, K)``."""
        return self.log_variance.sigmoid() - losses * self.log_variance.neg().exp() / 2
