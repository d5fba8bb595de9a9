"""SoftAdapt: a softmax of the slopes of the losses, so that a task whose loss falls slowly, or rises, gets more weight.

Source    Heydari, Thompson, Mehmood, SoftAdapt, arXiv:1912.12355, sections 3.1.1 to 3.1.3 (not consulted); numbers checked
          against the authors' code, dr-aheydari/SoftAdapt@66e7bd6 (traces).
Symbols   s_i slope of task i per step, a forward difference of accuracy ``order`` over its last order + 1 losses, this
          step's included; f_i their mean; beta no unit, or that of one over a loss.
          original: w = softmax(beta s); loss_weighted: w_i = f_i exp(beta s_i) / sum_j f_j exp(beta s_j);
          normalized: w = softmax(beta s / sum_j s_j). The weights sum to 1.
Departs   from that code: without the 1e-8 in its denominators, so that the sum is 1; the window has order + 1 losses; a task
          with fewer gets 1 / K, where that code leaves the weights to the user. As in it the difference is that at the
          oldest of these losses, and the slopes are divided by their sum, whose sign turns the order of the tasks round.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Literal

import torch
from torch import Tensor

from weighting._checks import check, check_choice
from weighting._shares import among_known, softmax_among
from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Observation

Variant = Literal["original", "loss_weighted", "normalized"]
VARIANTS: tuple[Variant, ...] = ("original", "loss_weighted", "normalized")


class SoftAdapt(Weighter):
    """Softmax of slopes.

    variant  "original", "loss_weighted" or "normalized"
    beta     larger is further from uniform; below 0 the fastest is favoured
    order    >= 1, accuracy of the forward difference; it reads the last order + 1 losses

    Raises ValueError on a negative loss where the variant is "loss_weighted".

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=losses) for losses in ([4.0, 4.0], [4.0, 4.0], [2.0, 4.0])]
    >>> replay(create("softadapt", 2, order=1), log)[-1].round(decimals=3).tolist()
    [0.45, 0.55]
    """

    name = "softadapt"
    claims = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES
    search = {"variant": VARIANTS}
    guards = {
        "zero_slopes": "normalized: the slopes summed to 0, and counted as 0",
        "zero_losses": "loss_weighted: all losses in the window were 0: equal weights were taken",
        **REFUSED_LOSS,
    }

    past: Tensor
    count: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        variant: Variant = "original",
        beta: float = 0.1,
        order: int = 4,
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        check_choice(self.name, "variant", variant, VARIANTS)
        self.variant = variant
        self.beta: float = check(self.name, "beta", beta)
        self.order: int = check(self.name, "order", order, integer=True, ge=1)
        self.add_state("past", torch.zeros(*self.shape, self.order + 1, dtype=torch.float64))
        self.add_state("count", 0.0)

    def probes(self) -> dict[str, Tensor]:
        """The slope s after the last step, 0 where it is not known."""
        return {"slope": torch.where(self._known(self.count), self._slopes(self.past), 0.0)}

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, sum 1 with all tasks present, ``(*batch_shape, K)``."""
        past, known = self._with(now), self._known(self.count + self.present(now))
        scores, equal = self._scores(past, known)
        return self.as_weights(among_known(softmax_among(torch.where(equal, 0.0, scores), known), known), now)

    def update(self, after: Observation) -> None:
        """Take the step's losses into the memory."""
        self.past.copy_(self._with(after))
        self.count.add_(self.present(after))
        known = self._known(self.count)
        if self.variant != "original":
            _, equal = self._scores(self.past, known)
            guard = "zero_slopes" if self.variant == "normalized" else "zero_losses"
            self.count_guard(guard, equal.squeeze(-1) & known.any(-1))

    def allowed(self, losses: Tensor) -> Tensor:
        """Those that can be a share."""
        return losses >= 0 if self.variant == "loss_weighted" else torch.ones_like(losses, dtype=torch.bool)

    def _with(self, seen: Observation) -> Tensor:
        """The last losses of each task, oldest first, with those of this step: ``(*batch_shape, K, order + 1)``."""
        moved = torch.cat([self.past.narrow(-1, 1, self.order), self.read(seen, "losses").unsqueeze(-1)], dim=-1)
        return torch.where(self.present(seen).unsqueeze(-1), moved, self.past)

    def _known(self, count: Tensor) -> Tensor:
        return count > self.order

    def _slopes(self, past: Tensor) -> Tensor:
        # The weights of the points: (-1)^(k + 1) binomial(n, k) / k, and that of the first makes their sum 0.
        later = [(-1) ** (k + 1) * comb(self.order, k) / k for k in range(1, self.order + 1)]
        oldest, *others = past.unbind(-1)
        return torch.stack([part * (one - oldest) for part, one in zip(later, others, strict=True)]).sum(0)

    def _scores(self, past: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """What the softmax is taken of, ``(*batch_shape, K)``, and where all count the same, bool ``(*batch_shape, 1)``."""
        slopes = torch.where(known, self._slopes(past), 0.0)
        if self.variant == "normalized":
            total = slopes.sum(-1, keepdim=True)
            largest = torch.finfo(slopes.dtype).max / self.num_tasks
            relative = torch.where(total == 0, 0.0, slopes / total).clamp(min=-largest, max=largest)
            return self.beta * relative, total == 0
        if self.variant == "loss_weighted":
            means = torch.where(known, past.mean(-1), 0.0)
            return self.beta * slopes + means.log(), (means == 0).all(-1, keepdim=True)
        return self.beta * slopes, torch.zeros_like(known.any(-1, keepdim=True))
