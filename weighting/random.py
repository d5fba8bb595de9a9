"""Random loss weighting (RLW): weights drawn anew at every step, the litmus test of every adaptive method.

Source    Lin, Ye, Zhang, Tsang, Reasonable Effectiveness of Random Weighting, TMLR 2022,
          arXiv:2111.10603.
Symbols   w = softmax(eps), eps ~ N(0, I) in R^K, drawn at every step; the weights sum to 1.
Departs   nowhere. The draws are a function of (seed, step) alone, so that a resumed run repeats them; replicas of one
          weighter share them, as single weighters of one seed do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weighting._checks import check
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Observation, RunFacts


class RandomLossWeighting(Weighter):
    """Softmax of standard normals at each step.

    seed  integer >= 0, of the weighter's own generator

    >>> from weighting import Observation, create
    >>> weights = create("random", 3, seed=1).weights(Observation(losses=[5.0, 1.0, 0.1]))
    >>> weights.round(decimals=3).tolist(), round(float(weights.sum()), 6)
    ([0.535, 0.264, 0.201], 1.0)
    """

    name = "random"
    answers_from = "state"
    claims = (
        Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE | Claim.FINITE_ON_EXTREME_LOSSES
    )

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), seed: int = 0) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.seed: int = check(self.name, "seed", seed, integer=True, ge=0)

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """The run's seed, so that paired runs do not share their draws."""
        return {"seed": run.seed}

    def weights(self, now: Observation) -> Tensor:
        """Positive, sum 1 over all K tasks, ``(*batch_shape, K)``."""
        digest = hashlib.sha256(f"{self.seed}/{self.num_updates}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        normals = torch.randn(self.num_tasks, generator=generator, dtype=torch.float64, device="cpu")
        return self.as_weights(normals.to(self.clock.new_empty(0, dtype=normals.dtype)).softmax(-1), now)
