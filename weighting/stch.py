"""Smooth Tchebycheff scalarization (STCH): a smooth maximum of the losses relative to what they were after the warm-up.

Source    Lin, Zhang, Yang, Liu, Wang, Zhang, Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024,
          arXiv:2402.19078 (not consulted); the form for multi-task learning is that of the authors' code,
          Xi-L/STCH@a510c1e, STCH_MTL/LibMTL/weighting/STCH.py, with which numbers were compared (traces).
Symbols   n_i reference, the mean loss of task i in the last steps of the warm-up; y_i = log(L_i / n_i);
          total = K mu log sum_i exp(y_i / mu); mu > 0 smoothness, no unit: towards 0 the largest y alone counts, towards
          infinity all alike. Hence w_i = K softmax_i(y / mu) / L_i. In the warm-up total = sum_i log L_i and w_i = 1 / L_i.
          The sum of the w_i L_i is K throughout; that of the weights is free.
Departs   from the paper's scalarization as that code does: logarithms, a reference in the place of the ideal point, the
          factor K, equal preferences. From that code: epochs are counted in steps; without its 1e-20, so that a loss of
          exactly 0 gets weight 0; K is the number of tasks in the batch with a loss above 0. A task without a loss in the
          reference steps has its first loss afterwards as the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weighting._checks import check
from weighting._shares import softmax_among
from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Observation, RunFacts

WARMUP_EPOCHS = 4
"""Before the epoch of the reference; LibMTL's default."""
STEPS_PER_WINDOW = 25
"""A run is at least so many times as long as the reference steps: with the warm-up these are a fifth of it."""


class SmoothTchebycheff(Weighter):
    """K softmax(log(L / n) / mu) / L, after a warm-up with 1 / L.

    mu      > 0, smoothness; smaller is closer to the worst task alone
    warmup  >= 0 steps before those of the reference
    window  >= 1 steps over which the reference n is averaged, still with 1 / L

    Raises ValueError on a negative loss, which has no logarithm.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=losses) for losses in ([1.0, 4.0], [1.0, 4.0], [0.5, 4.0])]
    >>> replay(create("stch", 2, warmup=0, window=1), log)[-1].round(decimals=3).tolist()
    [1.333, 0.333]
    """

    name = "stch"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES | Claim.UNDOES_TASK_SCALES
    guards = {
        "zero_loss": "a loss of exactly 0 got weight 0",
        "late_reference": "a task had no loss above 0 in the reference steps: its first one afterwards was taken",
        **REFUSED_LOSS,
    }

    steps: Tensor
    total: Tensor
    count: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        mu: float = 1.0,
        warmup: int = 400,
        window: int = 100,
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.mu: float = check(self.name, "mu", mu, gt=0)
        self.warmup: int = check(self.name, "warmup", warmup, integer=True, ge=0)
        self.window: int = check(self.name, "window", window, integer=True, ge=1)
        self.add_state("steps", torch.zeros(*self.batch_shape, 1, dtype=torch.float64))
        self.add_state("total", 0.0)
        self.add_state("count", 0.0)

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """Four epochs and one for the reference, as in LibMTL; together at most a fifth of the run."""
        window = max(1, min(run.steps_per_epoch, run.steps // STEPS_PER_WINDOW))
        return {"warmup": WARMUP_EPOCHS * window, "window": window}

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, ``(*batch_shape, K)``."""
        losses = self.read(now, "losses")
        counted = self.present(now) & (losses > 0)
        inverse = torch.where(counted, 1 / losses, 0.0)
        known = counted & (self.count > 0)
        relative = torch.where(known, losses.log() - (self.total / self.count).log(), 0.0)
        # Centred before the division, so that no exponent overflows for a small mu.
        largest = torch.where(counted, relative, float("-inf")).amax(-1, keepdim=True)
        shares = softmax_among((relative - largest) / self.mu, counted)
        balanced = counted.sum(-1, keepdim=True) * shares * inverse
        return self.as_weights(torch.where(self._ended(), torch.where(counted, balanced, 0.0), inverse), now)

    def update(self, after: Observation) -> None:
        """Add the losses to the reference, while its steps last."""
        losses, present = self.read(after, "losses"), self.present(after)
        counted, late = present & (losses > 0), self._ended() & (self.count == 0)
        taken = counted & (late | ((self.steps >= self.warmup) & self._ended().logical_not()))
        self.count_guard("zero_loss", (present & (losses == 0)).any(-1))
        self.count_guard("late_reference", (counted & late).any(-1))
        self.total.add_(torch.where(taken, losses, 0.0))
        self.count.add_(taken)
        self.steps.add_(1)

    def allowed(self, losses: Tensor) -> Tensor:
        """Those with a logarithm, and 0."""
        return losses >= 0

    def _ended(self) -> Tensor:
        """Whether the reference is known: bool ``(*batch_shape, 1)``."""
        return self.steps >= self.warmup + self.window
