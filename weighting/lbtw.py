"""Loss-balanced task weighting (LBTW): a task counts by how much of its initial loss is left.

Source    Liu, Liang, Gitter, Loss-Balanced Task Weighting to Reduce Negative Transfer in Multi-Task Learning, AAAI 2019
          (student abstract), Algorithm 1.
Symbols   w_i = (L_i(t) / L_i(0))^alpha. alpha = 0 is the plain sum; alpha = 1 makes a task's weight fall as its loss does.
          The sum of the weights is free and falls with the losses.
Departs   L_i(0) is the first loss above zero that is seen, so that no ratio is 0 / 0. The paper's text was not consulted;
          the rule is the one that later papers quote. The authors' code rescales the weights: ``weighting.lbtw_official``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting._checks import check
from weighting.claim import Claim
from weighting.contract import REFUSED_LOSS, Weighter
from weighting.observation import Observation


class LossBalanced(Weighter):
    """(L_i(t) / L_i(0))^alpha.

    alpha          >= 0, no unit
    restart_every  steps after which L_i(0) is taken anew; 0: never

    Raises ValueError on a negative loss.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[4.0, 4.0]), Observation(losses=[1.0, 4.0])]
    >>> replay(create("lbtw", 2), log)[-1].tolist()
    [0.5, 1.0]
    """

    name = "lbtw"
    claims = (
        Claim.NONNEGATIVE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.TASK_SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.FAVOURS_THE_SLOWEST
    )
    search = {"alpha": (0.1, 0.5, 1.0)}
    guards = {
        "zero_initial_loss": "a loss of exactly 0 could not be L(0)",
        **REFUSED_LOSS,
    }

    initial_losses: Tensor

    def __init__(
        self, num_tasks: int, *, batch_shape: Sequence[int] = (), alpha: float = 0.5, restart_every: int = 0
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.alpha: float = check(self.name, "alpha", alpha, ge=0)
        self.restart_every: int = check(self.name, "restart_every", restart_every, integer=True, ge=0)
        self.add_state("initial_losses", float("nan"))

    def start(self, first: Observation) -> None:
        """Remember the initial losses."""
        self._remember(first)

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, 1 for a task without initial loss, ``(*batch_shape, K)``."""
        losses = self.read(now, "losses")
        unknown = self.initial_losses.isnan()
        if self._restarts():
            unknown = torch.ones_like(unknown)
        ratio = torch.where(unknown, torch.ones_like(losses), losses / self.initial_losses)
        return self.as_weights(ratio**self.alpha, now)

    def update(self, after: Observation) -> None:
        """Remember the losses of tasks that had none."""
        if self._restarts():
            self.initial_losses.fill_(float("nan"))
        self._remember(after)

    def allowed(self, losses: Tensor) -> Tensor:
        """Those of which a share can be left."""
        return losses >= 0

    def _restarts(self) -> bool:
        return bool(self.restart_every) and self.num_updates % self.restart_every == 0

    def _remember(self, seen: Observation) -> None:
        losses, present = self.read(seen, "losses"), self.present(seen)
        new = self.initial_losses.isnan() & present
        self.count_guard("zero_initial_loss", (new & (losses == 0)).any(-1))
        self.initial_losses.copy_(torch.where(new & (losses > 0), losses, self.initial_losses))
