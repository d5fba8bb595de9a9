"""Conflict-averse gradient descent (CAGrad): near the mean gradient, what is best for the worst task.

Source    Liu, Liu, Jin, Stone, Liu, Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021,
          arXiv:2110.14048, Algorithm 1; numbers checked against the authors' code (traces).
Symbols   G Gramian, g_0 the mean gradient; the update d maximises min_i g_i'd subject to |d - g_0| <= c |g_0|. Its dual:
          s minimises s'G1 / K + c |g_0| sqrt(s'Gs) over the simplex; w = (1 / K + z) / (1 + c^2), z = s c |g_0| /
          sqrt(s'Gs). The sum of the weights is free.
Departs   from the authors' code, whose solver stops early and feels the scale of the losses: here the minimum is reached. On
          a support S, z_S = G_SS^-1 (lambda 1 - (G1)_S / K) with z'Gz = c^2 |g_0|^2, which gives lambda; the support is
          found by block pivoting. The training scripts multiply by K besides; that factor is left to the learning rate.
          Tasks with a gradient of 0 enter the mean and are left out of s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting._checks import check
from weighting._gramian import REFINEMENTS, Gradients, _FromGramian, pivot, solve_on, times
from weighting.claim import Claim

ROUNDS = 200
"""Of pivoting, at most; five are usual."""


class ConflictAverse(_FromGramian):
    """(1 / K + z) / (1 + c^2).

    c  radius around the mean gradient, in [0, 1); 0 is the mean

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, 0.0], [0.0, 4.0]])
    >>> create("cagrad", 2).weights(now).round(decimals=3).tolist()
    [0.817, 0.431]
    """

    name = "cagrad"
    claims = (
        Claim.NONNEGATIVE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.BEST_FOR_THE_WORST_TASK
    )
    search = {"c": (0.2, 0.4, 0.6, 0.8)}

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), c: float = 0.4) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.c: float = check(self.name, "c", c, ge=0, lt=1)

    def rule(self, seen: Gradients) -> Tensor:
        """w, each at least 1 / (K (1 + c^2))."""
        return (1 / seen.number + self._towards_the_worst(seen)) / (1 + self.c**2)

    def _towards_the_worst(self, seen: Gradients) -> Tensor:
        """z, 0 for tasks that do not count."""
        largest = torch.where(seen.counts, seen.norms, 0.0).amax(-1, keepdim=True)
        norms = torch.where(seen.counts, seen.norms / torch.where(largest > 0, largest, 1.0), 0.0)
        ones = torch.where(seen.counts, 1 / torch.where(norms > 0, norms, 1.0), 0.0)
        linear = times(seen.cosines, norms) / seen.number
        radius = self.c**2 * ((norms * linear).sum(-1, keepdim=True) / seen.number).clamp(min=0.0)

        both, sizes = torch.stack([ones, linear], dim=-1), seen.cosines.abs()

        def solve(support: Tensor, refinements: int = 0) -> tuple[Tensor, Tensor, Tensor]:
            by_ones, by_linear = solve_on(seen.cosines, both, support, refinements).unbind(-1)
            a, b, q = ((x * y).sum(-1, keepdim=True) for x, y in ((ones, by_ones), (ones, by_linear), (linear, by_linear)))
            a = torch.where(a > 0, a, 1.0)
            level = (b + (b * b - a * (q - radius)).clamp(min=0.0).sqrt()) / a
            point = level * by_ones - by_linear
            slope = linear + times(seen.cosines, point) - level * ones
            return point, slope, linear.abs() + times(sizes, point.abs()) + (level * ones).abs()

        support, _ = pivot(solve, seen.counts, seen.counts, ROUNDS)
        point, _, _ = solve(support, REFINEMENTS)
        # With c = 0 there is nowhere to go, and the root would make rounding visible.
        return torch.where(radius > 0, point.clamp(min=0.0) * ones, 0.0)
