"""PCGrad: from each task's gradient, what conflicts with another task's is projected away, then they are summed.

Source    Yu, Kumar, Gupta, Levine, Hausman, Finn, Gradient Surgery for Multi-Task Learning, NeurIPS 2020, arXiv:2001.06782,
          Algorithm 1; numbers checked against nash-mtl's code (traces).
Symbols   G Gramian; for each task i: c = e_i; for every other task j in random order: q = c'Ge_j; if q < 0:
          c_j <- c_j - q / G_jj. w = sum_i c. Each w_i >= 1; the sum is free and at least K.
Departs   nowhere. The orders are a function of (seed, step) alone, so that a resumed run repeats them; replicas of one
          weighter share them, as single weighters of one seed do. The authors' code visits tasks in the order 0 ... K - 1,
          since its shuffle has no effect. A gradient of 0 conflicts with none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weighting._checks import check
from weighting._gramian import Gradients, _FromGramian
from weighting._orders import draw_orders
from weighting.claim import Claim
from weighting.observation import RunFacts


class ProjectedConflicts(_FromGramian):
    """The sum of the K gradients without their conflicts.

    seed  integer >= 0, of the orders

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, -0.5], [-0.5, 1.0]])
    >>> create("pcgrad", 2).weights(now).tolist()
    [1.5, 1.5]
    """

    name = "pcgrad"
    claims = Claim.NONNEGATIVE | Claim.SCALE_FREE | Claim.FINITE_ON_EXTREME_LOSSES

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), seed: int = 0) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.seed: int = check(self.name, "seed", seed, integer=True, ge=0)

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """The run's seed, so that paired runs do not share their orders."""
        return {"seed": run.seed}

    def rule(self, seen: Gradients) -> Tensor:
        """w, each at least 1."""
        return project_conflicts(seen, self.orders().to(seen.cosines.device))

    def orders(self) -> Tensor:
        """In which each task meets the others in this step, int64 ``(K, K - 1)``."""
        return draw_orders(self.seed, self.num_updates, self.num_tasks)


def project_conflicts(seen: Gradients, orders: Tensor) -> Tensor:
    """The weights for given orders, int64 ``(K, m)``: row i names the tasks that are visited for task i."""
    # Row i of these: task i in unit gradients, and its products with all unit gradients.
    found, products = torch.eye(orders.shape[0], dtype=seen.cosines.dtype, device=orders.device), seen.cosines
    found = found.expand_as(products).clone()
    for visited in orders.unbind(-1):
        at = visited.unsqueeze(-1).expand(*products.shape[:-1], 1)
        conflict = products.gather(-1, at).clamp(max=0.0)
        found = found.scatter_add(-1, at, -conflict)
        products = products - conflict * seen.cosines[..., visited, :]
    norms = torch.where(seen.counts, seen.norms, 0.0)
    summed = (norms.unsqueeze(-2) @ found).squeeze(-2) / seen.norms
    return torch.where(seen.counts, summed, 1.0)
