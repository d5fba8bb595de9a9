"""Impartial multi-task learning, loss balance (IMTL-L): learned scales that bring every scaled loss to 1.

Source    Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, Towards Impartial Multi-task Learning, ICLR 2021 (not
          consulted); numbers checked against the loss-scale part of LibMTL's IMTL (traces).
Symbols   s_i log-scale; total = sum_i exp(s_i) L_i - s_i; hence w_i = exp(s_i) and d total / d s_i = exp(s_i) L_i - 1,
          which is zero where w_i L_i = 1. The sum of the weights is free.
Departs   from the paper in the optimizer: there s is trained by the model's own, here by one of its own, whose settings
          are hyperparameters. LibMTL's IMTL is a hybrid that also multiplies the shared gradients by the coefficients of
          IMTL-G; these do not enter s.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weighting._checks import task_vector
from weighting._optimizers import ElementOptimizer, OptimizerName
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Observation


class ImpartialLoss(Weighter):
    """w = exp(s) with learned log-scales s.

    lr, optimizer, momentum, weight_decay  of the optimizer of s, lr > 0: "adam" or "sgd" (momentum is SGD's)
    initial_log_scale                      one number, or one per task

    >>> from weighting import Observation, create, replay
    >>> step = Observation(losses=[4.0, 0.25])
    >>> replay(create("imtl_l", 2, lr=0.1), [step] * 101)[-1].round(decimals=3).tolist()
    [0.248, 4.003]
    """

    name = "imtl_l"
    answers_from = "state"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES
    search = {"lr": (1e-4, 1e-3, 1e-2)}

    log_scale: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        lr: float = 1e-3,
        optimizer: OptimizerName = "adam",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        initial_log_scale: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        initial = task_vector(self.name, "initial_log_scale", initial_log_scale, num_tasks)
        self.add_state("log_scale", initial.expand(self.shape).clone())
        self.optimizer = ElementOptimizer(
            self.name, self.shape, optimizer=optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay
        )

    def weights(self, now: Observation) -> Tensor:
        """Positive, ``(*batch_shape, K)``."""
        return self.as_weights(self.log_scale.exp(), now)

    def update(self, after: Observation) -> None:
        """One gradient step on the log-scales."""
        gradient = self.log_scale.exp() * self.read(after, "losses") - 1
        self.optimizer.step(self.log_scale, gradient, self.present(after))
