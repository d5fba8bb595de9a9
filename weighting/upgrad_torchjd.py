"""UPGrad as its authors' library has it: with a constant on the diagonal of the Gramian.

Source    TorchJD/torchjd, version 0.18.0, UPGrad with its defaults; numbers checked against it (traces).
Symbols   those of ``weighting.upgrad``; v_i = argmin v'Hv subject to v >= e_i / K, H = G / trace(G) + 1e-4 I.
Departs   from the paper as that library does: where the norms of the gradients differ the constant is much beside the
          shorter ones, and the update can oppose their tasks; and where trace(G) < 1e-4, H is 1e-4 I and every weight is
          1 / K, so that the scale of the losses matters. From that library: nowhere, but that the minimum is reached by
          block pivoting and not by quadprog.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from weighting._gramian import Gradients, gradients
from weighting.claim import Claim
from weighting.observation import Observation
from weighting.upgrad import Unconflicting

DIAGONAL = 1e-4
SMALLEST_TRACE = 1e-4


class RegularizedUnconflicting(Unconflicting):
    """Sum of the K projections, with 1e-4 on the diagonal of the Gramian divided by its trace.

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, -0.5], [-0.5, 1.0]])
    >>> create("upgrad_torchjd", 2).weights(now).round(decimals=6).tolist()
    [0.74995, 0.74995]
    """

    name = "upgrad_torchjd"
    variant_of = "upgrad"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES
    guards = {"small_gradients": "the squared norms had a sum below 1e-4: the gradients counted as 0"}

    def rule(self, seen: Gradients) -> Tensor:
        """w, each at least 1 / K."""
        norms = torch.where(seen.counts, seen.norms, 0.0)
        shares = torch.where(_small(seen), 0.0, norms / norms.square().sum(-1, keepdim=True).sqrt())
        identity = torch.eye(self.num_tasks, dtype=shares.dtype, device=shares.device)
        matrix = seen.cosines * shares.unsqueeze(-1) * shares.unsqueeze(-2) + DIAGONAL * identity
        lengths = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        cosines = matrix / lengths.unsqueeze(-1) / lengths.unsqueeze(-2)
        return super().rule(replace(seen, cosines=cosines, norms=lengths, counts=seen.present))

    def update(self, after: Observation) -> None:
        """Count gradients of 0, and those that are small together."""
        super().update(after)
        seen = gradients(self.read(after, "gramian"), self.present(after))
        self.count_guard("small_gradients", (_small(seen) & seen.counts.any(-1, keepdim=True)).squeeze(-1))


def _small(seen: Gradients) -> Tensor:
    """Whether the trace of G is below the smallest that counts: bool ``(*batch_shape, 1)``."""
    return torch.where(seen.counts, seen.norms, 0.0).square().sum(-1, keepdim=True) < SMALLEST_TRACE
