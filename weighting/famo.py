"""FAMO: fast adaptive multitask optimization, balancing the rates at which the log-losses fall.

Source    Liu, Feng, Stone, Liu, FAMO, NeurIPS 2023, arXiv:2306.03792, Algorithm 1; numbers
          checked against the authors' code (traces).
Symbols   xi logits, z = softmax(xi); D_i = L_i - min_i + 1e-8; c = sum_i z_i / D_i, held constant; w_i = z_i / (D_i c),
          which sum to 1; delta_i = log D_i(before) - log D_i(after the step, same batch); gradient on xi:
          z * (delta - sum_j z_j delta_j), the transposed softmax Jacobian times delta; Adam with weight decay gamma.
          A common scale of the losses changes nothing, up to the constant 1e-8.
Departs   nowhere with ``lookahead="same_batch"``. With ``"next_batch"`` the losses of the next step stand for those after
          this one: no extra forward pass, but the difference contains the noise between two batches, and the logits
          learn of a step one step later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from weighting._checks import check, check_choice, task_vector
from weighting._optimizers import ElementOptimizer
from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Needs, Observation

EPSILON = 1e-8


class Famo(Weighter):
    """z / (D c) with logits that learn which task improves least.

    lr          > 0, of the logits' Adam
    gamma       >= 0, weight decay of the logits, a pull towards equal z; the paper picks 1e-4, 1e-3 or 1e-2 on validation
    min_losses  lower bounds of the losses, one number or one per task; every loss must stay above its bound
    lookahead   "same_batch" (the paper: one more forward pass) | "next_batch" (none)

    Raises ValueError when a loss falls below its bound.

    >>> from weighting import Observation, create, replay
    >>> step = Observation(losses=[1.0, 4.0], losses_after=[0.9, 4.0])
    >>> replay(create("famo", 2), [step] * 11)[-1].round(decimals=3).tolist()
    [0.718, 0.282]
    """

    name = "famo"
    needs = Needs.LOSSES_AFTER_STEP
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_ONE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.UNDOES_TASK_SCALES
    )
    search = {"gamma": (1e-4, 1e-3, 1e-2)}
    guards = {
        "at_lower_bound": "a loss at its lower bound, whose distance has no logarithm, was left out of that step",
        **REFUSED_LOSS,
    }

    logits: Tensor
    min_losses: Tensor
    last_log_distance: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        lr: float = 0.025,
        gamma: float = 1e-3,
        min_losses: float | Sequence[float] = 0.0,
        lookahead: Literal["same_batch", "next_batch"] = "same_batch",
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        gamma = check(self.name, "gamma", gamma, ge=0)
        check_choice(self.name, "lookahead", lookahead, ("same_batch", "next_batch"))
        self.lookahead = lookahead
        self.add_state("logits", 0.0)
        self.add_state("min_losses", task_vector(self.name, "min_losses", min_losses, num_tasks))
        self.optimizer = ElementOptimizer(self.name, self.shape, optimizer="adam", lr=lr, weight_decay=gamma)
        if lookahead == "next_batch":
            self.add_state("last_log_distance", float("nan"))

    def probes(self) -> dict[str, Tensor]:
        """The logits xi."""
        return {"logits": self.logits.clone()}

    def wants(self) -> Needs:
        """The losses after the step, unless the next batch stands for them."""
        return Needs.LOSSES_AFTER_STEP if self.lookahead == "same_batch" else Needs.NOTHING

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, sum 1 over the present tasks, ``(*batch_shape, K)``."""
        losses, present = self.read(now, "losses"), self._counted(now)
        shares = torch.where(present, self._softmax(present) / self._distance(losses, present), 0.0)
        total = shares.sum(-1, keepdim=True)
        return self.as_weights(shares / torch.where(total > 0, total, 1.0), now)

    def update(self, after: Observation) -> None:
        """One Adam step on the logits."""
        losses, present = self.read(after, "losses"), self._counted(after)
        self.count_guard("at_lower_bound", (self.present(after) & present.logical_not()).any(-1))
        log_before = self._distance(losses, present).log()
        if self.lookahead == "same_batch":
            log_after = self._distance(self.read(after, "losses_after"), present).log()
            self._learn(log_before - log_after, present, present)
            return
        known = present & self.last_log_distance.isnan().logical_not()
        change = torch.where(known, self.last_log_distance - log_before, 0.0)
        self.last_log_distance.copy_(torch.where(present, log_before, self.last_log_distance))
        self._learn(change, present, known)

    def allowed(self, losses: Tensor) -> Tensor:
        """Those above their lower bounds."""
        return losses - self.min_losses + EPSILON > 0

    def refusal(self, losses: Tensor) -> str:
        """With the bounds."""
        below = float((self.min_losses - losses).max())
        return (
            f"expected every loss above its lower bound min_losses = {self.min_losses.tolist()}, found one {below:.3g} below"
        )

    def _learn(self, delta: Tensor, present: Tensor, known: Tensor) -> None:
        """Move the logits of tasks whose ``delta`` is known; it is 0 for the others."""
        z = self._softmax(present)
        gradient = z * (delta - (z * delta).sum(-1, keepdim=True))
        self.optimizer.step(self.logits, gradient, known)

    def _counted(self, seen: Observation) -> Tensor:
        """The present tasks above their lower bounds, or all present ones where none is: bool ``(*batch_shape, K)``."""
        present = self.present(seen)
        above = present & (self.read(seen, "losses") != self.min_losses)
        return torch.where(above.any(-1, keepdim=True), above, present)

    def _softmax(self, present: Tensor) -> Tensor:
        """z over the present tasks; 0 for the others, and for all where there is none."""
        return torch.where(present, self.logits, float("-inf")).softmax(-1).nan_to_num(nan=0.0)

    def _distance(self, losses: Tensor, present: Tensor) -> Tensor:
        """D, with 1 for tasks that do not count."""
        return torch.where(present, losses - self.min_losses + EPSILON, 1.0)
