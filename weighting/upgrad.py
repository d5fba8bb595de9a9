"""Unconflicting projection of gradients (UPGrad): gradients are projected onto what opposes no task, then summed.

Source    Quinton, Rey, Jacobian Descent for Multi-Objective Optimization, arXiv:2406.16232 (not consulted); numbers checked
          against the authors' library torchjd (traces).
Symbols   G Gramian; v_i = argmin v'Gv subject to v >= e_i / K; w = sum_i v_i. J'v_i is the projection of g_i / K onto the
          cone of updates d with Jd >= 0, so (Gw)_j >= 0 for every j. Each w_i >= 1 / K; the sum is free.
Departs   from torchjd in the regularisation: that adds 1e-4 to the diagonal of G / trace(G), which is much where the norms
          of the gradients differ (see ``weighting.upgrad_torchjd``); here there is none, and the minimum is reached.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weighting._gramian import Gradients, _FromGramian, least_quadratic
from weighting.claim import Claim


class Unconflicting(_FromGramian):
    """Sum of the K projections.

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, -0.5], [-0.5, 1.0]])
    >>> create("upgrad", 2).weights(now).round(decimals=6).tolist()
    [0.75, 0.75]
    """

    name = "upgrad"
    claims = (
        Claim.NONNEGATIVE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.OPPOSES_NO_TASK
        | Claim.SUMS_PROJECTIONS
    )

    def rule(self, seen: Gradients) -> Tensor:
        """w, each at least 1 / K."""
        counts = seen.counts.unsqueeze(-2).expand_as(seen.cosines)
        # In unit gradients: what is added to unit gradient i so that it opposes none, row i.
        added = least_quadratic(seen.cosines.unsqueeze(-3), seen.cosines, counts)
        norms = torch.where(seen.counts, seen.norms, 0.0)
        return (1 + (norms.unsqueeze(-2) @ added).squeeze(-2) / seen.norms) / seen.number
