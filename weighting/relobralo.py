"""ReLoBRaLo: a softmax of the loss ratios to the last step, and now and then to the start, averaged over the steps.

Source    Bischof, Kraus, Multi-Objective Loss Balancing for Physics-Informed Deep Learning, arXiv:2110.09813 (not
          consulted); numbers checked against the authors' code, rbischof/relative_balancing@b3c76d2, src/update_rules.py
          with the schedule of src/train.py (traces).
Symbols   b_i(t, t') = K softmax_i(L_i(t) / (T L_i(t'))), T temperature, no unit; rho is 1 with the probability ``rho`` and 0
          else, drawn at every step: random lookback;
          w(t) = alpha (rho w(t-1) + (1 - rho) b(t, 0)) + (1 - alpha) b(t, t-1). The weights sum to K.
          First step: w = 1; second: w = b(1, 0), which is alpha = 0, as in that code.
Departs   from that script, whose L(0) are the losses of its second step: here they are those of the start. The draws are a
          function of (seed, step) alone, so that a resumed run repeats them; replicas of one weighter share them, as single
          weighters of one seed do. A loss of exactly 0 is never a denominator: the last one above 0 is, and the ratio is 1
          where there is none; hence without that code's 1e-12. A batch without some tasks has the softmax over those
          that are there, times their number, and leaves the others' weights as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weighting._checks import check
from weighting._shares import softmax_among
from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Observation, RunFacts


class RelativeBalancing(Weighter):
    """Averaged softmaxes of loss ratios, with random lookback.

    alpha        in [0, 1], how much of the last weights, or of the ratios to the start, is kept
    temperature  T > 0; larger is closer to uniform
    rho          in [0, 1], probability that the last weights are kept and the start is not looked at
    seed         integer >= 0, of the draws

    Raises ValueError on a negative loss.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=losses) for losses in ([4.0, 4.0], [4.0, 4.0], [2.0, 4.0])]
    >>> replay(create("relobralo", 2, temperature=1.0), log)[-1].round(decimals=3).tolist()
    [0.755, 1.245]
    """

    name = "relobralo"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_NUM_TASKS
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.TASK_SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.FAVOURS_THE_SLOWEST
    )
    guards = {"zero_loss": "a loss of exactly 0 was not kept as a denominator", **REFUSED_LOSS}

    current: Tensor
    initial_losses: Tensor
    last_losses: Tensor
    count: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        alpha: float = 0.999,
        temperature: float = 0.1,
        rho: float = 0.99,
        seed: int = 0,
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.alpha: float = check(self.name, "alpha", alpha, ge=0, le=1)
        self.temperature: float = check(self.name, "temperature", temperature, gt=0)
        self.rho: float = check(self.name, "rho", rho, ge=0, le=1)
        self.seed: int = check(self.name, "seed", seed, integer=True, ge=0)
        self.add_state("current", 1.0)
        self.add_state("initial_losses", float("nan"))
        self.add_state("last_losses", float("nan"))
        self.add_state("count", 0.0)

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """The run's seed, so that paired runs do not share their draws."""
        return {"seed": run.seed}

    def probes(self) -> dict[str, Tensor]:
        """The last loss by the initial one, 1 where they are not known."""
        ratio = self.last_losses / self.initial_losses
        return {"ratio": torch.where(ratio.isnan(), 1.0, ratio)}

    def start(self, first: Observation) -> None:
        """Remember the initial losses."""
        self._remember_initial(self.read(first, "losses"), self.present(first))

    def weights(self, now: Observation) -> Tensor:
        """Positive, sum K with all tasks present, ``(*batch_shape, K)``."""
        return self.as_weights(self._mixed(now), now)

    def update(self, after: Observation) -> None:
        """Keep the weights and the losses of the step."""
        mixed, losses, present = self._mixed(after), self.read(after, "losses"), self.present(after)
        self.current.copy_(torch.where(present, mixed, self.current))
        self._remember_initial(losses, present)
        self.last_losses.copy_(torch.where(present & (losses > 0), losses, self.last_losses))
        self.count_guard("zero_loss", (present & (losses == 0)).any(-1))
        self.count.add_(present)

    def allowed(self, losses: Tensor) -> Tensor:
        """Those that can be a share of others."""
        return losses >= 0

    def keeps(self) -> bool:
        """The draw rho of this step: whether the last weights are kept and the start is not looked at."""
        digest = hashlib.sha256(f"{self.seed}/{self.num_updates}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.rho * 2**64

    def _mixed(self, seen: Observation) -> Tensor:
        """w of all tasks in the batch; what stands for the others is not used."""
        losses, present = self.read(seen, "losses"), self.present(seen)
        past = self.current if self.keeps() else self._balanced(losses, self.initial_losses, present)
        newest = self._balanced(losses, self.last_losses, present)
        mixed = self.alpha * past + (1 - self.alpha) * newest
        return torch.where(self.count == 0, self.current, torch.where(self.count == 1, newest, mixed))

    def _balanced(self, losses: Tensor, others: Tensor, present: Tensor) -> Tensor:
        """b, with the number of the tasks in the batch for K."""
        ratio = torch.where(others.isnan(), 1.0, losses / others) / self.temperature
        largest = torch.finfo(ratio.dtype).max / self.num_tasks
        return present.sum(-1, keepdim=True) * softmax_among(ratio.clamp(max=largest), present)

    def _remember_initial(self, losses: Tensor, present: Tensor) -> None:
        new = self.initial_losses.isnan() & present & (losses > 0)
        self.initial_losses.copy_(torch.where(new, losses, self.initial_losses))
