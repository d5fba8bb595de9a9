"""Dynamic weight average with windows that slide by one step, as the code of Nash-MTL has it.

Source    AvivNavon/nash-mtl@cce1840, methods/weight_methods.py.
Symbols   r_k mean of the last ``window`` losses of task k, this step's included, by that of the ``window`` before;
          T temperature, no unit; w = softmax(r / T), and 1 / K up to step ``window``. The weights sum to 1.
Departs   from the paper (``weighting.dwa``) as that code does: the memory starts full of ones, so that until it is full
          badly scaled losses give extreme weights, and the total is the mean over tasks. From that code in precision alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weighting._checks import check
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.dwa import DynamicWeightAverage, loss_ratio
from weighting.observation import Observation, RunFacts


class SlidingWeightAverage(Weighter):
    """Softmax of the loss ratios of two sliding windows.

    temperature  T > 0; larger is closer to uniform
    window       steps in a window, >= 1

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[0.5**t, 1.0]) for t in range(6)]
    >>> replay(create("dwa_nash_mtl", 2, window=1), log)[-1].round(decimals=3).tolist()
    [0.438, 0.562]
    """

    name = "dwa_nash_mtl"
    variant_of = "dwa"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_ONE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.FAVOURS_THE_SLOWEST
    )
    search = DynamicWeightAverage.search

    past: Tensor
    count: Tensor

    def __init__(
        self, num_tasks: int, *, batch_shape: Sequence[int] = (), temperature: float = 2.0, window: int = 100
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.temperature: float = check(self.name, "temperature", temperature, gt=0)
        self.window: int = check(self.name, "window", window, integer=True, ge=1)
        self.add_state("past", torch.ones(*self.shape, 2 * self.window, dtype=torch.float64))
        self.add_state("count", 0.0)

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """A window of one epoch."""
        return {"window": run.steps_per_epoch}

    def probes(self) -> dict[str, Tensor]:
        """The ratio r of the two windows before this step, 1 where it is not known."""
        return {"ratio": self._ratio(self.past)}

    def weights(self, now: Observation) -> Tensor:
        """Positive, sum 1 with all tasks present, ``(*batch_shape, K)``."""
        return self.as_weights((self._ratio(self._with(now)) / self.temperature).softmax(-1), now)

    def update(self, after: Observation) -> None:
        """Take the step's losses into the memory."""
        self.past.copy_(self._with(after))
        self.count.add_(self.present(after))

    def _with(self, seen: Observation) -> Tensor:
        """The last losses of each task, oldest first, with those of this step: ``(*batch_shape, K, 2 window)``."""
        moved = torch.cat([self.past.narrow(-1, 1, 2 * self.window - 1), self.read(seen, "losses").unsqueeze(-1)], dim=-1)
        return torch.where(self.present(seen).unsqueeze(-1), moved, self.past)

    def _ratio(self, past: Tensor) -> Tensor:
        """Mean over the newer half of the memory by that over the older; 1 where the older is not to be used yet."""
        older, newer = past.narrow(-1, 0, self.window).mean(-1), past.narrow(-1, self.window, self.window).mean(-1)
        # A task moves from its loss number window + 2 on, as that code does.
        return loss_ratio(newer, torch.where(self.count > self.window, older, torch.full_like(older, float("nan"))))
