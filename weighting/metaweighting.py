"""MetaWeighting: task weights that descend the validation losses of all tasks at once, through the step of the model.

Source    Mao, Wang, Liu, Lin, Xie, MetaWeighting: Learning to Weight Tasks in Multi-Task Learning, Findings of ACL 2022,
          3436-3448. Neither its text nor code of its authors was to be had: this is a reading of its abstract and of a
          reader's summary (korba.online/posts/meta_weighting), which says: weights are parameters; the hypergradients of the
          query (validation) losses are taken through one step of training; the shortest vector of their convex hull is the
          common direction; the weights take a step along it with a learning rate of their own.
Symbols   w weights; g_i gradient of training loss i before the step, q_j of query loss j after it; C_ji = <q_j, g_i> the
          cross-Gramian. A step of SGD, theta <- theta - eta sum_i w_i g_i, gives dQ_j / dw_i = -eta C_ji. d_j the row -C_j,
          by the parameters of the weights; a minimises |sum_j a_j d_j| over a >= 0, sum a = 1; parameters <- parameters
          - lr sum_j a_j d_j, then the constraint.
Departs   where nothing is known of the paper, by our choice: eta is absorbed in ``lr``, as the method does not know it; the
          constraint on the weights; the starting point 1 / K; the query set, here the validation split. Gradients are those
          of the shared parameters, so that d_j is exact where the rest is trained by its own losses (``acts_on``). Of
          optimizers other than SGD the preconditioner is ignored; so are clipping, ``prior`` and ``normalize``.
Absent    A task that is absent in training keeps its weight; present ones share what they had together. One that is absent
          in validation has no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from weighting._checks import check, check_choice
from weighting._gramian import gradients_of_rows
from weighting._shares import projected
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.mgda import minimum_norm
from weighting.observation import Needs, Observation

Constraint = Literal["simplex", "softmax", "none"]
ROUNDING = 1e-10
"""Of a common direction, relative to the longest of its parts; on random ones that cancel it was below 1e-12."""


class MetaWeighting(Weighter):
    """Weights that learn from the hypergradients of the validation losses.

    lr          > 0, of the weights' parameters, in which the model's learning rate is absorbed
    constraint  "simplex" (the weights are the parameters, projected onto w >= 0, sum 1) | "softmax" (they are the softmax of
                the parameters) | "none" (they are the parameters, of any sign and sum)

    >>> from weighting import Observation, create, replay
    >>> step = Observation(losses=[1.0, 1.0], cross_gramian=[[2.0, 0.0], [1.0, 0.0]])
    >>> replay(create("metaweighting", 2, lr=0.1), [step] * 3)[-1].round(decimals=6).tolist()
    [0.55, 0.45]
    """

    name = "metaweighting"
    needs = Needs.CROSS_GRAMIAN
    answers_from = "state"
    acts_on = "shared"
    claims = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES
    search = {"lr": (0.0025, 0.025, 0.25)}
    guards = {"zero_hypergradient": "no weight changed a validation loss that was there: all weights stayed as they were"}

    weight_parameters: Tensor
    combination: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        lr: float = 0.025,
        constraint: Constraint = "simplex",
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.lr: float = check(self.name, "lr", lr, gt=0)
        check_choice(self.name, "constraint", constraint, get_args(Constraint))
        self.constraint = constraint
        if constraint == "none":
            kept = Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES
            self.claims = kept | Claim.RAISES_NO_QUERY_LOSS
        self.add_state("weight_parameters", 0.0 if constraint == "softmax" else 1 / num_tasks)
        self.add_state("combination", 0.0)

    def probes(self) -> dict[str, Tensor]:
        """The a_j of the last step, 0 before the first."""
        return {"combination": self.combination.clone()}

    def weights(self, now: Observation) -> Tensor:
        """The weights of the present tasks, ``(*batch_shape, K)``; with all present, their sum is 1 unless unconstrained."""
        return self.as_weights(self._weights(), now)

    def update(self, after: Observation) -> None:
        """One step along the common direction."""
        products = self.read(after, "cross_gramian").double()
        trained = self.present(after)
        queried = self.present(after, "val_present") & trained.any(-1, keepdim=True)
        hypergradients = -self._by_parameters(products, trained)
        seen = gradients_of_rows(hypergradients, queried)
        self.count_guard("zero_hypergradient", (queried & seen.counts.logical_not()).any(-1))
        shares = torch.where(queried.any(-1, keepdim=True), minimum_norm(seen), 0.0)
        direction = _common(shares, hypergradients)
        moved = self._constrained(self.weight_parameters - self.lr * direction, trained)
        self.weight_parameters.copy_(torch.where(trained & queried.any(-1, keepdim=True), moved, self.weight_parameters))
        self.combination.copy_(shares)

    def _weights(self) -> Tensor:
        """Of all tasks, whether they are there or not."""
        return self.weight_parameters.softmax(-1) if self.constraint == "softmax" else self.weight_parameters

    def _by_parameters(self, products: Tensor, trained: Tensor) -> Tensor:
        """Rows of derivatives by the weights, ``(*batch_shape, K, K)``, as derivatives by their parameters.

        With a softmax, over the tasks that are there, at what they have together.
        """
        if self.constraint != "softmax":
            return products
        w = torch.where(trained, self._weights().double(), 0.0)
        held = w.sum(-1, keepdim=True)
        shares = w / torch.where(held > 0, held, 1.0)
        # Pair by pair: beside a weight near 1, its own product is near the mean, and their difference would be rounding.
        differences = products.unsqueeze(-1) - products.unsqueeze(-2)
        return w.unsqueeze(-2) * (differences @ shares[..., None, :, None]).squeeze(-1)

    def _constrained(self, moved: Tensor, trained: Tensor) -> Tensor:
        """Parameters that were moved, back where they may be; of tasks that are not there, anything."""
        if self.constraint == "simplex":
            kept = torch.where(trained, 0.0, self.weight_parameters).sum(-1, keepdim=True)
            return projected(moved, (1 - kept).clamp(min=0.0), trained)
        if self.constraint == "softmax":
            return moved + _log_sum(self.weight_parameters, trained) - _log_sum(moved, trained)
        return moved


def _common(shares: Tensor, hypergradients: Tensor) -> Tensor:
    """The shares' sum of the rows, ``(*batch_shape, K)``; 0 where it is rounding beside its parts, which cancel."""
    parts = shares.unsqueeze(-1) * hypergradients
    direction = parts.sum(-2)
    size = torch.linalg.vector_norm(parts, dim=-1).amax(-1, keepdim=True)
    return torch.where(torch.linalg.vector_norm(direction, dim=-1, keepdim=True) > ROUNDING * size, direction, 0.0)


def _log_sum(values: Tensor, chosen: Tensor) -> Tensor:
    """The logarithm of the summed exponentials of the chosen elements, ``(*batch_shape, 1)``."""
    return torch.where(chosen, values, float("-inf")).logsumexp(-1, keepdim=True)
