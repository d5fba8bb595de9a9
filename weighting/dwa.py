"""Dynamic weight average (DWA): a task whose loss falls slowly gets more weight.

Source    Liu, Johns, Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, arXiv:1803.10704, Eq. (7).
Symbols   L_k(t) mean training loss of task k in window t; r_k = L_k(t-1) / L_k(t-2); T temperature, no unit;
          w_k = K softmax_k(r_k / T), and 1 in the first two windows. The weights sum to K.
Departs   from the paper in one word: its epochs are windows of ``window`` steps here, so that the method can be used
          where training is counted in steps. With ``window`` = steps per epoch it is the paper's rule. A task without
          two averages yet counts with the ratio 1.
          Variant "nash_mtl" (AvivNavon/nash-mtl@cce1840, methods/weight_methods.py): windows slide by one step; the ratio
          is the mean of the last ``window`` losses, this step's included, by that of the ``window`` before. Their memory
          starts full of ones, so that until it is full badly scaled losses give extreme weights, and the total is the mean
          over tasks: the weights sum to 1, and are 1 / K up to step ``window``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from weighting._checks import check, check_choice
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Observation, RunFacts


class DynamicWeightAverage(Weighter):
    """K times the softmax of the loss ratios of the last two windows.

    temperature  T > 0; larger is closer to uniform
    window       steps in a window, >= 1
    variant      "paper": windows follow each other | "nash_mtl": windows slide by one step
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

    past: Tensor
    count: Tensor
    previous: Tensor
    last: Tensor
    total: Tensor
    current: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        temperature: float = 2.0,
        window: int = 100,
        variant: Literal["paper", "nash_mtl"] = "paper",
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        check_choice(self.name, "variant", variant, ("paper", "nash_mtl"))
        self.temperature: float = check(self.name, "temperature", temperature, gt=0)
        self.window: int = check(self.name, "window", window, integer=True, ge=1)
        self.variant = variant
        if variant == "nash_mtl":
            self.__dict__["answers_from"] = "losses"
            # Ones in the memory have a scale, and a mean over tasks sums to 1.
            given_up = Claim.SUMS_TO_NUM_TASKS | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE
            self.claims = self.claims & ~given_up | Claim.SUMS_TO_ONE
            self.add_state("past", torch.ones(*self.shape, 2 * self.window, dtype=torch.float64))
            self.add_state("count", 0.0)
            return
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
        return {"ratio": self._ratio(*((self.last, self.previous) if self.variant == "paper" else self._halves(self.past)))}

    def weights(self, now: Observation) -> Tensor:
        """Positive, sum K (variant "nash_mtl": 1), ``(*batch_shape, K)``."""
        return self.as_weights(self.current if self.variant == "paper" else self._sliding_weights(now), now)

    def update(self, after: Observation) -> None:
        """Add the step's losses to the window; at its end, weigh anew."""
        if self.variant == "nash_mtl":
            self.past.copy_(self._with(after))
            self.count.add_(self.present(after))
            return
        losses, present = self.read(after, "losses"), self.present(after)
        self.total.add_(torch.where(present, losses, 0.0))
        self.count.add_(present)
        if (self.num_updates + 1) % self.window == 0:
            self._end_window()

    def _end_window(self) -> None:
        seen = self.count > 0
        self.previous.copy_(torch.where(seen, self.last, self.previous))
        self.last.copy_(torch.where(seen, self.total / self.count, self.last))
        self.total.zero_()
        self.count.zero_()
        self.count_guard("zero_by_zero", ((self.last == 0) & (self.previous == 0)).any(-1))
        self.current.copy_(self.num_tasks * self._shares(self.last, self.previous))

    def _sliding_weights(self, now: Observation) -> Tensor:
        return self._shares(*self._halves(self._with(now)))

    def _halves(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """Means over the newer and over the older half of the memory; the older is NaN where it is not to be used yet."""
        older, newer = past.narrow(-1, 0, self.window).mean(-1), past.narrow(-1, self.window, self.window).mean(-1)
        # A task moves from its loss number window + 2 on, as that code does.
        return newer, torch.where(self.count > self.window, older, torch.full_like(older, float("nan")))

    def _with(self, seen: Observation) -> Tensor:
        """The last losses of each task, oldest first, with those of this step: ``(*batch_shape, K, 2 window)``."""
        moved = torch.cat([self.past.narrow(-1, 1, 2 * self.window - 1), self.read(seen, "losses").unsqueeze(-1)], dim=-1)
        return torch.where(self.present(seen).unsqueeze(-1), moved, self.past)

    def _shares(self, newer: Tensor, older: Tensor) -> Tensor:
        """Softmax of the ratios over the temperature."""
        return (self._ratio(newer, older) / self.temperature).softmax(-1)

    def _ratio(self, newer: Tensor, older: Tensor) -> Tensor:
        """Newer by older; 1 where it is not known."""
        ratio = newer / older
        undecided = older.isnan() | ((newer == 0) & (older == 0))
        largest = torch.finfo(ratio.dtype).max / self.num_tasks
        return torch.where(undecided, torch.ones_like(ratio), ratio.clamp(max=largest))
