"""Dynamic weight average (DWA): a task whose loss falls slowly gets more weight.

Source    Liu, Johns, Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, arXiv:1803.10704, Eq. (7).
Symbols   L_k(t) mean training loss of task k in window t; r_k = L_k(t-1) / L_k(t-2); T temperature, no unit;
          w_k = K softmax_k(r_k / T), and 1 in the first two windows. The weights sum to K.
Departs   from the paper in one word: its epochs are windows of ``window`` steps here, so that the method can be used
          where training is counted in steps. With ``window`` = steps per epoch it is the paper's rule. A task without
          two averages yet counts with the ratio 1. Sliding windows: ``weighting.dwa_nash_mtl``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weighting._checks import check
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Observation, RunFacts


class DynamicWeightAverage(Weighter):
    """K times the softmax of the loss ratios of the last two windows.

    temperature  T > 0; larger is closer to uniform
    window       steps in a window, >= 1

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=losses) for losses in ([1.0, 1.0], [1.0, 1.0], [0.5, 1.0], [0.25, 1.0])]
    >>> replay(create("dwa", 2, window=1), log)[-1].round(decimals=3).tolist()
    [0.876, 1.124]
    """

    name = "dwa"
    answers_from = "state"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_NUM_TASKS
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.TASK_SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.FAVOURS_THE_SLOWEST
    )
    search = {"temperature": (0.5, 1.0, 2.0, 5.0)}
    guards = {"zero_by_zero": "two windows with a mean loss of 0: the ratio 1 was taken"}

    previous: Tensor
    last: Tensor
    total: Tensor
    count: Tensor
    current: Tensor

    def __init__(
        self, num_tasks: int, *, batch_shape: Sequence[int] = (), temperature: float = 2.0, window: int = 100
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.temperature: float = check(self.name, "temperature", temperature, gt=0)
        self.window: int = check(self.name, "window", window, integer=True, ge=1)
        self.add_state("previous", float("nan"))
        self.add_state("last", float("nan"))
        self.add_state("total", 0.0)
        self.add_state("count", 0.0)
        self.add_state("current", 1.0)

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """A window of one epoch, as in the paper."""
        return {"window": run.steps_per_epoch}

    def probes(self) -> dict[str, Tensor]:
        """The ratio r of the losses of the last two windows before this step, 1 where it is not known."""
        return {"ratio": self._ratio()}

    def weights(self, now: Observation) -> Tensor:
        """Positive, sum K, ``(*batch_shape, K)``."""
        return self.as_weights(self.current, now)

    def update(self, after: Observation) -> None:
        """Add the step's losses to the window; at its end, weigh anew."""
        losses, present = self.read(after, "losses"), self.present(after)
        self.total.add_(torch.where(present, losses, 0.0))
        self.count.add_(present)
        if (self.num_updates + 1) % self.window == 0:
            self._end_window()

    def _ratio(self) -> Tensor:
        return loss_ratio(self.last, self.previous)

    def _end_window(self) -> None:
        seen = self.count > 0
        self.previous.copy_(torch.where(seen, self.last, self.previous))
        self.last.copy_(torch.where(seen, self.total / self.count, self.last))
        self.total.zero_()
        self.count.zero_()
        self.count_guard("zero_by_zero", ((self.last == 0) & (self.previous == 0)).any(-1))
        self.current.copy_(self.num_tasks * (self._ratio() / self.temperature).softmax(-1))


def loss_ratio(newer: Tensor, older: Tensor) -> Tensor:
    """Newer by older, ``(*batch_shape, K)``; 1 where it is 0 / 0 or the older one is not known (NaN)."""
    ratio = newer / older
    unknown = older.isnan() | ((newer == 0) & (older == 0))
    largest = torch.finfo(ratio.dtype).max / ratio.shape[-1]
    return torch.where(unknown, torch.ones_like(ratio), ratio.clamp(max=largest))
