"""Aligned-MTL: the principal components of the task gradients are brought to one length before they are summed.

Source    Senushkin, Patakin, Kuznetsov, Konushin, Independent Component Alignment for Multi-Task Learning, CVPR 2023,
          arXiv:2305.19000, Algorithm 1; numbers checked against the authors' code (traces).
Symbols   G = V L V' Gramian; B = sqrt(s) V L^(-1/2) V' over the eigenvalues above K eps max(L); s the smallest of them
          ("min"), the lower middle one ("median") or their mean ("rmse"); w = B1. The weights may be negative; the sum is
          free.
Departs   nowhere. torchjd's form is w / K. A gradient of 0 gets the weight 0. Eigenvalues are those of float64, whatever the
          gradients' dtype: in float32 that code drops directions which are kept here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from weighting._checks import check_choice
from weighting._gramian import Gradients, _FromGramian, times
from weighting.claim import Claim


class AlignedComponents(_FromGramian):
    """sqrt(s) G^(-1/2) 1.

    scale  "min" | "median" | "rmse", the common length of the components

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, 0.0], [0.0, 4.0]])
    >>> create("aligned_mtl", 2).weights(now).round(decimals=6).tolist()
    [1.0, 0.5]
    """

    name = "aligned_mtl"
    claims = Claim.PERMUTATION_EQUIVARIANT | Claim.SCALE_FREE | Claim.FINITE_ON_EXTREME_LOSSES

    def __init__(
        self, num_tasks: int, *, batch_shape: Sequence[int] = (), scale: Literal["min", "median", "rmse"] = "min"
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        check_choice(self.name, "scale", scale, ("min", "median", "rmse"))
        self.scale = scale

    def rule(self, seen: Gradients) -> Tensor:
        """w, of any sign."""
        norms = torch.where(seen.counts, seen.norms, 0.0)
        largest = norms.amax(-1, keepdim=True)
        norms = norms / torch.where(largest > 0, largest, 1.0)
        values, vectors = torch.linalg.eigh(seen.cosines * norms.unsqueeze(-1) * norms.unsqueeze(-2))
        kept = values > torch.finfo(values.dtype).eps * seen.number * values.amax(-1, keepdim=True)
        roots = torch.where(kept, values, 1.0).rsqrt() * kept
        ones = (vectors * seen.counts.unsqueeze(-1)).sum(-2)
        return self._length(values, kept) * times(vectors, roots * ones)

    def _length(self, values: Tensor, kept: Tensor) -> Tensor:
        """sqrt(s), ``(*batch_shape, 1)``; eigenvalues ascend, so those that are kept come last."""
        number = kept.sum(-1, keepdim=True)
        if self.scale == "rmse":
            return ((values * kept).sum(-1, keepdim=True) / number.clamp(min=1)).sqrt()
        above = number - 1 if self.scale == "min" else number // 2
        place = (values.shape[-1] - 1 - above).clamp(max=values.shape[-1] - 1)
        return values.gather(-1, place).clamp(min=0.0).sqrt()
