"""Uncertainty weighting (UW): each task's noise is learned, and noisy tasks count less.

Source    Kendall, Gal, Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018, arXiv:1705.07115,
          Eq. (7) in the log-variance form of its section 3.2.
Symbols   s_i = log sigma_i^2, the log-variance; total = sum_i L_i exp(-s_i) / 2 + s_i / 2; hence w_i = exp(-s_i) / 2
          and d total / d s_i = (1 - L_i exp(-s_i)) / 2. The sum of the weights is free.
Departs   from the paper in the optimizer: there s is trained by the model's own, here by one of its own, whose
          settings are hyperparameters. The default (Adam, 0.025) is that of nash-mtl and FAMO's experiments. The paper
          drops the factor 1/2 for classification losses; here every task has it, as in both repositories.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting._checks import task_vector
from weighting._optimizers import ElementOptimizer, OptimizerName
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Observation


class UncertaintyWeighting(Weighter):
    """w = exp(-s) / 2 with learned log-variances s.

    lr, optimizer, momentum, weight_decay  of the optimizer of s, lr > 0: "adam" or "sgd" (momentum is SGD's)
    initial_log_variance                   one number, or one per task

    >>> from weighting import Observation, create, replay
    >>> step = Observation(losses=[4.0, 0.25])
    >>> replay(create("uncertainty", 2), [step] * 101)[-1].round(decimals=3).tolist()
    [0.137, 2.04]
    """

    name = "uncertainty"
    answers_from = "state"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES
    search = {"lr": (1e-4, 1e-3, 1e-2, 2.5e-2)}

    log_variance: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        lr: float = 0.025,
        optimizer: OptimizerName = "adam",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        initial_log_variance: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        initial = task_vector(self.name, "initial_log_variance", initial_log_variance, num_tasks)
        self.add_state("log_variance", initial.expand(self.shape).clone())
        self.optimizer = ElementOptimizer(
            self.name, self.shape, optimizer=optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay
        )

    def probes(self) -> dict[str, Tensor]:
        """The learned noise sigma."""
        return {"sigma": torch.exp(self.log_variance / 2)}

    def weights(self, now: Observation) -> Tensor:
        """Positive, ``(*batch_shape, K)``."""
        return self.as_weights(torch.exp(-self.log_variance) / 2, now)

    def update(self, after: Observation) -> None:
        """One gradient step on the log-variances."""
        self.optimizer.step(self.log_variance, self.gradient(self.read(after, "losses")), self.present(after))

    def gradient(self, losses: Tensor) -> Tensor:
        """Of the total with respect to s, ``(*batch_shape, K)``."""
        return (1 - losses * torch.exp(-self.log_variance)) / 2
