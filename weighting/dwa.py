"""Dynamic weight average (DWA): a task whose loss falls slowly gets more weight.

Source    Liu, Johns, Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, arXiv:1803.10704, Eq. (7).
Symbols   L_k(t) mean training loss of task k in window t; r_k = L_k(t-1) / L_k(t-2); T temperature, no unit;
          w_k = K softmax_k(r_k / T), and 1 in the first two windows. The weights sum to K.
Departs   from the paper in one word: its epochs are windows of ``window`` steps here, so that the method can be used
          where training is counted in steps. With ``window`` = steps per epoch it is the paper's rule. A task without
          two averages yet counts with the ratio 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weighting.base import Observation, RunFacts, Weighter, check


class DynamicWeightAverage(Weighter):
    """K times the softmax of the loss ratios of the last two windows.

    temperature  T > 0; larger is closer to uniform
    window       steps in a window, >= 1
    """

    name = "dwa"
    claims = frozenset({"nonnegative", "sums_to_num_tasks", "permutation_equivariant", "scale_free", "task_scale_free"})
    search = {"temperature": (0.5, 1.0, 2.0, 5.0)}

    def __init__(
        self, num_tasks: int, *, batch_shape: Sequence[int] = (), temperature: float = 2.0, window: int = 100
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        check(self.name, "temperature", temperature, above=0)
        check(self.name, "window", window, integer=True, least=1)
        self.temperature, self.window = temperature, window
        self.add_state("previous", float("nan"))
        self.add_state("last", float("nan"))
        self.add_state("total", 0.0)
        self.add_state("count", 0.0)
        self.add_state("current", 1.0)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.previous: Tensor
        self.last: Tensor
        self.total: Tensor
        self.count: Tensor
        self.current: Tensor
        self.steps: Tensor

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """A window of one epoch, as in the paper."""
        return {"window": run.steps_per_epoch}

    def weights(self, now: Observation) -> Tensor:
        """Positive, sum K, ``(*batch_shape, K)``."""
        return self.reply(self.current, now)

    def update(self, after: Observation) -> None:
        """Add the step's losses to the window; at its end, weigh anew."""
        losses = self.read(after, "losses")
        if after.present is None:
            self.total.add_(losses)
            self.count.add_(1)
        else:
            present = self.present(after)
            self.total.add_(torch.where(present, losses, torch.zeros_like(losses)))
            self.count.add_(present)
        self.steps.add_(1)
        if int(self.steps) % self.window == 0:
            self._end_window()

    def _end_window(self) -> None:
        seen = self.count > 0
        self.previous.copy_(torch.where(seen, self.last, self.previous))
        self.last.copy_(torch.where(seen, self.total / self.count, self.last))
        self.total.zero_()
        self.count.zero_()
        ratio = self.last / self.previous
        largest = torch.finfo(ratio.dtype).max / self.num_tasks
        undecided = self.previous.isnan() | ((self.last == 0) & (self.previous == 0))
        ratio = torch.where(undecided, torch.ones_like(ratio), ratio.clamp(max=largest))
        self.current.copy_(self.num_tasks * (ratio / self.temperature).softmax(-1))
