"""CoBa as its authors' code computes it, which is not what the paper's equations say.

Source    codefuse-ai/MFTCoder@8ba13f4, mftcoder_accelerate, utils/loss_utils.py.
Symbols   those of ``weighting.coba``.
Departs   from the paper as that code does: slope of the maximum ratio instead of the maximum slope, no bound on DF, a
          softmax of K (DF RCS + (1 - DF) ACS) and a least weight of 1 / (10 K) at the end, nothing recorded after the first
          step, no window on the ratios when U >= 2, and ACS over the last N - W + 1 updates at most. Its window counts
          stored records, those without the task included; a validation loss of exactly 0 is an absence, and the points
          that are left are numbered without gaps.
          From that code: where all slopes of a task in the window of ACS are 0 it gives NaN, and where no record in the
          window has any task it stops; here these slopes count as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting._windows import TrendSinceStart, TrendWindow, Window
from weighting.claim import Claim
from weighting.coba import CoBa
from weighting.observation import Observation


class CoBaMFTCoder(CoBa):
    """CoBa in its authors' variant.

    Hyperparameters are those of CoBa; the warm-up is at least 3 U, a multiple of U, and W <= N U.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[1.0, 1.0], val_losses=[1.0 - 0.03 * t, 1.0 - 0.01 * t]) for t in range(12)]
    >>> replay(create("coba_mftcoder", 2, warmup=3, window=6), log)[-1].round(decimals=3).tolist()
    [0.284, 0.716]
    """

    name = "coba_mftcoder"
    variant_of = "coba"
    claims = CoBa.claims & ~Claim.DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE
    guards = {
        "zero_slopes_of_a_task": "a task had no slope in the window: its ACS was that of slope 0",
        "least_weight": "a weight under 1 / (10 K) was found and all were raised towards it",
    }

    def __init__(
        self,
        num_tasks: int,
        *,
        batch_shape: Sequence[int] = (),
        warmup: int = 100,
        window: int = 500,
        tau: float = 5.0,
        update_every: int = 1,
    ) -> None:
        super().__init__(
            num_tasks, batch_shape=batch_shape, warmup=warmup, window=window, tau=tau, update_every=update_every
        )
        every, length = self.update_every, self.window
        if self.warmup < 3 * every or self.warmup % every:
            expected = f"a multiple of update_every = {every}, at least {3 * every}"
            raise ValueError(f"{self.name}: expected warmup to be {expected}, found {self.warmup}")
        if length < self.warmup // every:
            raise ValueError(
                f"{self.name}: expected window to be at least warmup / update_every = {self.warmup // every}, found {length}"
            )
        largest = (*self.batch_shape, 1)
        windowed = every == 1
        self.ratios = TrendWindow(self.shape, length) if windowed else TrendSinceStart(self.shape)
        self.largest_ratio = TrendWindow(largest, length) if windowed else TrendSinceStart(largest)
        self.slope_sizes = Window(self.shape, length - self.warmup // every + 1)

    def start(self, first: Observation) -> None:
        """Remember the initial validation losses; their ratio 1 is no point of the regression."""
        self._remember(self.read(first, "val_losses"), self.present(first, "val_present"))

    def update(self, after: Observation) -> None:
        """Record the validation losses, if it is time, and weigh anew."""
        present, done = self.present(after, "val_present"), self.num_updates + 1
        if self._records_next():
            self._record(self.read(after, "val_losses"), present)
        if done >= self.warmup and done % self.update_every == 0:
            self.current.copy_(self._weigh(present))

    def relative_share(self, updates: int) -> Tensor:
        """DF without a bound, ``(*batch_shape, 1)``."""
        return self.divergence_factor(updates)

    def _records_next(self) -> bool:
        return self.num_updates > 0 and self.num_updates % self.update_every == 0

    def _record(self, losses: Tensor, present: Tensor) -> None:
        self._remember(losses, present)
        ratios = losses / self.initial_losses
        # That code keeps a record for every task, takes a loss of 0 for an absence, and numbers what is left without gaps.
        there = present & (losses != 0)
        self.ratios.add_record(ratios, there)
        largest = torch.where(there, ratios, float("-inf")).amax(-1, keepdim=True)
        self.largest_ratio.add_record(largest, there.any(-1, keepdim=True))

    def _weigh(self, present: Tensor) -> Tensor:
        slopes = self.ratios.slopes()
        everyone = self._live(slopes)
        self.slope_sizes.add(slopes.abs().unsqueeze(-1), everyone)
        dead = self.slope_sizes.sum() == 0
        self.count_guard("zero_slopes", (slopes == 0).all(-1))
        self.count_guard("zero_slopes_of_a_task", dead.any(-1) & dead.logical_not().any(-1))
        self._record_largest(self.largest_ratio.slopes().squeeze(-1))
        relative, absolute = self._scores(slopes, everyone)
        mixed = torch.lerp(absolute, relative, self.relative_share(self.num_updates + 1))
        weights = (self.num_tasks * mixed).softmax(-1)
        least = 1 / (10 * self.num_tasks)
        below = weights.amin(-1, keepdim=True) < least
        self.count_guard("least_weight", below.squeeze(-1))
        return torch.where(below, weights * (1 - least * self.num_tasks) + least, weights)

    def _live(self, slopes: Tensor) -> Tensor:
        """Every task: that code leaves none out."""
        return torch.ones_like(slopes, dtype=torch.bool)
