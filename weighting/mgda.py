"""Multiple-gradient descent (MGDA): the shortest convex combination of the task gradients.

Source    Desideri, Multiple-gradient descent algorithm (MGDA) for multiobjective optimization, Comptes Rendus Mathematique
          350, 2012; Sener, Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, arXiv:1810.04650,
          Eq. (3); neither text was consulted; numbers checked against the authors' code (traces).
Symbols   G Gramian; w minimises w'Gw subject to w >= 0, sum w = 1; hence (Gw)_i >= w'Gw for every i, with equality where
          w_i > 0: the update opposes no task.
Departs   from Sener and Koltun's code, which stops early and keeps away from the vertices: here the minimum is reached, by
          block pivoting on min |sum_i y_i u_i|^2 + (m'y - 1)^2, y >= 0, u_i unit gradients, m_i = min_j n_j / n_i, whose
          solution has the same direction. Tasks with a gradient of 0 share all weight, which is the optimum; of several
          optima (equal gradients) one that is the same for equal tasks is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weighting._gramian import Gradients, _FromGramian, least_quadratic
from weighting.claim import Claim


class MinimumNorm(_FromGramian):
    """The point of the simplex at which the combined gradient is shortest.

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, 0.0], [0.0, 4.0]])
    >>> create("mgda", 2).weights(now).round(decimals=6).tolist()
    [0.8, 0.2]
    """

    name = "mgda"
    acts_on = "shared"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_ONE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.OPPOSES_NO_TASK
        | Claim.SHORTEST_IN_THE_SIMPLEX
    )

    def rule(self, seen: Gradients) -> Tensor:
        """w, sum 1 over the tasks that are there."""
        return minimum_norm(seen)


def minimum_norm(seen: Gradients) -> Tensor:
    """w over the tasks that are there, ``(*batch_shape, K)``; those with a gradient of 0 share all of it."""
    zero = seen.present & seen.counts.logical_not()
    return torch.where(zero.any(-1, keepdim=True), zero / zero.sum(-1, keepdim=True).clamp(min=1), shortest(seen))


def shortest(seen: Gradients) -> Tensor:
    """The minimum over the tasks that count."""
    least = torch.where(seen.counts, seen.norms, float("inf")).amin(-1, keepdim=True)
    m = torch.where(seen.counts, least / seen.norms, 0.0)
    matrix = seen.cosines + m.unsqueeze(-1) * m.unsqueeze(-2)
    # In units of the shortest gradient: x_i = y_i m_i.
    found = least_quadratic(matrix, -m, seen.counts) * m
    return found / found.sum(-1, keepdim=True)
