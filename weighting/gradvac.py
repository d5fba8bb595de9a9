"""GradVac: gradients are turned towards each other until their cosines are what they were on average.

Source    Wang, Tsvetkov, Firat, Cao, Gradient Vaccine, ICLR 2021, arXiv:2010.05874, Algorithm 1 and Eq. (4); no code by the
          authors is known; numbers checked against torchjd (traces).
Symbols   G Gramian, h_ij target cosines, 0 at first; for each task i, g = g_i, and every other task j in random order:
          f = cos(g, g_j); if f < h_ij: g <- g + |g| (h sqrt(1 - f^2) - f sqrt(1 - h^2)) / (|g_j| sqrt(1 - h^2)) g_j; then
          h_ij <- (1 - beta) h_ij + beta f in every case. w: the coefficients of the sum of all g. The sum is free.
Departs   nowhere. The orders are drawn as in ``weighting.pcgrad``. One target per pair stands for the whole gradient; the
          paper has one per layer or module as well. As in torchjd, 1e-8 is added to the products of norms in denominators,
          and a gradient of 0 has the cosine 0 with all others; here nothing is turned towards it. Absent tasks leave their
          targets alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weighting._checks import check
from weighting._gramian import Gradients, LastAnswer, _FromGramian, gradients
from weighting._orders import draw_orders
from weighting.claim import Claim
from weighting.observation import Observation, RunFacts

EPSILON = 1e-8


class GradientVaccine(_FromGramian):
    """The sum of the K turned gradients.

    beta  of the moving average of the cosines, in [0, 1]
    seed  integer >= 0, of the orders

    >>> from weighting import Observation, create, replay
    >>> step = Observation(losses=[1.0, 1.0], gramian=[[1.0, -0.5], [-0.5, 1.0]])
    >>> replay(create("gradvac", 2), [step] * 3).round(decimals=3).tolist()
    [[1.5, 1.5], [1.496, 1.496]]
    """

    name = "gradvac"
    claims = Claim.NONNEGATIVE | Claim.FINITE_ON_EXTREME_LOSSES
    search = {"beta": (0.01, 0.1, 0.5)}

    targets: Tensor

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.01, seed: int = 0) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.beta: float = check(self.name, "beta", beta, ge=0, le=1)
        self.seed: int = check(self.name, "seed", seed, integer=True, ge=0)
        self._last = LastAnswer()
        self.add_state("targets", torch.zeros(*self.shape, num_tasks, dtype=torch.float64))

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """The run's seed, so that paired runs do not share their orders."""
        return {"seed": run.seed}

    def rule(self, seen: Gradients) -> Tensor:
        """w, each at least 1."""
        return self._vaccinated(seen)[0]

    def update(self, after: Observation) -> None:
        """Move the target cosines towards those that were met."""
        super().update(after)
        seen = gradients(self.read(after, "gramian"), self.present(after))
        self.targets.copy_(self._vaccinated(seen)[1])

    def _vaccinated(self, seen: Gradients) -> tuple[Tensor, Tensor]:
        def answer(
            cosines: Tensor, norms: Tensor, counts: Tensor, present: Tensor, targets: Tensor, orders: Tensor
        ) -> tuple[Tensor, Tensor]:
            return vaccinate(Gradients(cosines, norms, counts, present), targets, orders, self.beta)

        orders = self.orders().to(seen.cosines.device)
        return self._last(answer, seen.cosines, seen.norms, seen.counts, seen.present, self.targets.double(), orders)

    def orders(self) -> Tensor:
        """In which each task meets the others in this step, int64 ``(K, K - 1)``."""
        return draw_orders(self.seed, self.num_updates, self.num_tasks)


def vaccinate(seen: Gradients, targets: Tensor, orders: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The weights for given orders, int64 ``(K, m)``, and the targets after the step, ``(*batch_shape, K, K)``."""
    both = seen.counts.unsqueeze(-1) & seen.counts.unsqueeze(-2)
    there = seen.present.unsqueeze(-1) & seen.present.unsqueeze(-2)
    cosines = seen.cosines
    small = (EPSILON / seen.norms).unsqueeze(-2).expand_as(cosines)
    found = torch.eye(orders.shape[0], dtype=cosines.dtype, device=orders.device).expand_as(cosines).clone()
    products = cosines
    for visited in orders.unbind(-1):
        at = visited.unsqueeze(-1).expand(*cosines.shape[:-1], 1)
        # Of the current gradient of each task, in units of its first norm.
        norm = (found * products).sum(-1, keepdim=True).clamp(min=0.0).sqrt()
        constant = small.gather(-1, at)
        f = (products.gather(-1, at) / (norm + constant / seen.norms.unsqueeze(-1))).clamp(-1.0, 1.0)
        h = targets.gather(-1, at)
        sine = (1 - h * h).clamp(min=0.0).sqrt()
        turn = norm * (h * (1 - f * f).sqrt() - f * sine) / (sine + constant)
        turn = torch.where(both.gather(-1, at) & (f < h), turn, 0.0)
        found = found.scatter_add(-1, at, turn)
        products = products + turn * cosines[..., visited, :]
        targets = targets.scatter(-1, at, torch.where(there.gather(-1, at), torch.lerp(h, f, beta), h))
    norms = torch.where(seen.counts, seen.norms, 0.0)
    return torch.where(seen.counts, (norms.unsqueeze(-2) @ found).squeeze(-2) / seen.norms, 1.0), targets
