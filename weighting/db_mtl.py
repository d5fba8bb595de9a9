"""Dual-balancing (DB-MTL): the gradients of the log-losses, all brought to the length of the longest one.

Source    Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Kwok, Dual-Balancing for Multi-Task Learning, arXiv:2308.12029 (not
          consulted); numbers checked against the authors' code in LibMTL (traces).
Symbols   h_i = g_i / (L_i + 1e-8), the gradient of log(L_i + 1e-8); buffer b_i <- h_i + (beta / t^sigma) (b_i - h_i), from
          0 on, t = 1, 2, ...; the update is sum_i (max_j |b_j| / (|b_i| + 1e-8)) b_i.
Departs   in what a vector of weights can say. With beta = 0 the buffer is the gradient, and with m_i = max_j |h_j| /
          (|h_i| + 1e-8) the weights are w_i = m_i / (L_i + 1e-8): that is ``DualBalancing``, a function of losses and
          Gramian. With beta > 0 the update is made of the gradients of earlier steps as well, which no weights of this
          step's losses give and whose lengths no Gramian of one step knows: ``GradientBuffer`` keeps them, for loops that
          have the rows of the Jacobian at hand. A gradient of 0 gets the multiplier 1, not 1e8 times the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting._checks import check
from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Needs, Observation

EPSILON = 1e-8


class DualBalancing(Weighter):
    """DB-MTL without a buffer: max |h| / (|h_i| (L_i + 1e-8)).

    Raises ValueError on a negative loss, which has no logarithm.

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 2.0], gramian=[[1.0, 0.0], [0.0, 16.0]])
    >>> create("db_mtl", 2).weights(now).round(decimals=6).tolist()
    [2.0, 0.5]
    """

    name = "db_mtl"
    needs = Needs.GRAMIAN
    acts_on = "shared"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES
    guards = {"zero_gradient": "a task that is there had a gradient of 0: its multiplier was 1", **REFUSED_LOSS}

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, ``(*batch_shape, K)``."""
        logs = 1 / (self.read(now, "losses") + EPSILON)
        squares = self.read(now, "gramian").diagonal(dim1=-2, dim2=-1)
        lengths = torch.where(self.present(now), squares.clamp(min=0.0).sqrt() * logs, 0.0)
        return self.as_weights(multipliers(lengths) * logs, now)

    def own_weights(self, now: Observation) -> Tensor:
        """Those of the log-losses: 1 / (L_i + 1e-8)."""
        return self.as_weights(1 / (self.read(now, "losses") + EPSILON), now)

    def update(self, after: Observation) -> None:
        """Count gradients of 0."""
        zero = self.read(after, "gramian").diagonal(dim1=-2, dim2=-1) <= 0
        self.count_guard("zero_gradient", (zero & self.present(after)).any(-1))

    def allowed(self, losses: Tensor) -> Tensor:
        """Those with a logarithm, and 0."""
        return losses >= 0


class GradientBuffer:
    """DB-MTL with its buffer, for a loop that has the gradients of the single tasks: K rows of numbers are its state.

    num_tasks    K >= 1
    beta, sigma  of the moving average, beta in [0, 1), sigma >= 0
    """

    def __init__(self, num_tasks: int, *, beta: float = 0.9, sigma: float = 0.5) -> None:
        self.num_tasks: int = check("db_mtl", "num_tasks", num_tasks, integer=True, ge=1)
        self.beta: float = check("db_mtl", "beta", beta, ge=0, lt=1)
        self.sigma: float = check("db_mtl", "sigma", sigma, ge=0)
        self.rows: Tensor | None = None
        self.steps = 0

    def combine(self, losses: Tensor, jacobian: Tensor, present: Sequence[bool] | Tensor | None = None) -> Tensor:
        """The update of the shared parameters, ``(parameters,)``; the buffer learns of the step.

        losses    ``(K,)``
        jacobian  ``(K, parameters)``, the gradients of the raw losses
        present   bool ``(K,)``; None: all

        An absent task keeps its row and has no part in the update. Raises ValueError on another shape.
        """
        if losses.shape != (self.num_tasks,) or jacobian.shape[:-1] != losses.shape:
            shapes = f"{tuple(losses.shape)} and {tuple(jacobian.shape)}"
            raise ValueError(f"db_mtl: expected losses ({self.num_tasks},) and a row for each, found {shapes}")
        here = torch.ones_like(losses, dtype=torch.bool) if present is None else torch.as_tensor(present)
        here = here.to(losses.device).unsqueeze(-1)
        gradients = jacobian / (losses + EPSILON).unsqueeze(-1)
        rows = torch.zeros_like(gradients) if self.rows is None else self.rows
        self.steps += 1
        self.rows = torch.where(here, torch.lerp(gradients, rows, self.beta / self.steps**self.sigma), rows)
        taken = torch.where(here, self.rows, 0.0)
        return multipliers(taken.norm(dim=-1)) @ taken


def multipliers(lengths: Tensor) -> Tensor:
    """The longest over each, 1 where it is 0: ``(*batch_shape, K)``."""
    longest = lengths.amax(-1, keepdim=True)
    return torch.where(lengths > 0, longest / (lengths + EPSILON), 1.0)
