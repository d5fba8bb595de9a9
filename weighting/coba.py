"""CoBa: weights from the slopes of the validation losses, so that tasks converge together and none diverges.

Source    Gong et al., CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models, EMNLP 2024,
          arXiv:2410.06741, section 3.
Symbols   r_i(t) = L_val_i(t) / L_val_i(0) after t steps; alpha_i(t) least-squares slope of the last N ratios, recorded
          from the end of the warm-up W on; n slopes recorded so far, m = min(N, n);
          RCS = softmax_i(K alpha_i / sum_j |alpha_j|)                        relative convergence scores
          ACS = softmax_i(-m alpha_i / sum of the last m |alpha_i|)           absolute convergence scores
          DF = min(1, n softmax_s(-tau n amax(s) / sum_s |amax(s)|) at s = t)  divergence factor, amax(s) = max_i alpha_i(s)
          w = DF RCS + (1 - DF) ACS, and 1/K until the warm-up ends. The weights sum to 1.
Departs   The paper's text leaves open how DF is normalised and which slopes enter it. Taken here: absolute values in
          DF's denominator; slopes count from step max(W, 1) on; the initial ratio 1 is a point of the regression. With
          ``update_every`` = U the ratios are recorded every U steps, and the window holds the N / U of N steps. A task
          whose slopes in the window are all zero has no score: it gets 1 / K, and the others are weighed as if it were not
          there. The authors' code differs: ``weighting.coba_mftcoder``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weighting._checks import check
from weighting._windows import Series, TrendSinceStart, TrendWindow, Window, divide
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Needs, Observation, RunFacts

WINDOW_PER_WARMUP = 5
"""The upper end of the authors' advice. Weights that follow a shorter window swing: they move before the model answers."""
WARMUP_OF_FEW_BATCHES = 100
"""Steps. As many as there are validation batches leave nothing to fit where these are few; this is the authors' setting."""
MIN_WARMUP = 5
"""Steps, in the shortest of runs."""

MIN_TAU_FOR_TURNING = 1.0
"""From here on the divergence factor falls fast enough for a task that turns to end with the least weight."""


class Scores(NamedTuple):
    """What CoBa's weights are made of: DF RCS + (1 - DF) ACS."""

    relative: Tensor
    """RCS ``(*batch_shape, K)``: high for tasks that converge slowly."""
    absolute: Tensor
    """ACS ``(*batch_shape, K)``: low for tasks that have begun to diverge."""
    divergence_factor: Tensor
    """DF ``(*batch_shape, 1)``: the share of RCS in the weights; it falls when a task diverges."""


class CoBa(Weighter):
    """Convergence balancer on validation losses.

    warmup        W >= 0 steps with equal weights; the authors advise the number of validation batches
    window        N >= 2 steps over which slopes are fitted; the authors advise 2 to 5 times the warm-up
    tau           > 0, how readily DF turns from relative to absolute scores
    update_every  U >= 1 steps between validation batches, and between new weights

    Defaults are for some 100 validation batches; ``defaults_for`` gives those that suit a run.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[1.0, 1.0], val_losses=[1.0 - 0.03 * t, 1.0 - 0.01 * t]) for t in range(12)]
    >>> replay(create("coba", 2, warmup=3, window=6), log)[-1].round(decimals=3).tolist()
    [0.269, 0.731]
    """

    name = "coba"
    version = 3
    needs = Needs.VAL_LOSSES
    losses_from = "validation"
    answers_from = "state"
    claims = (
        Claim.NONNEGATIVE
        | Claim.SUMS_TO_ONE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.SCALE_FREE
        | Claim.TASK_SCALE_FREE
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.UNIFORM_UNTIL_WARMUP_ENDS
        | Claim.FAVOURS_THE_SLOWEST
        | Claim.TURNED_TASK_LOSES_WEIGHT
        | Claim.DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE
    )
    search = {"tau": (2, 5, 10, 20)}
    guards = {
        "zero_slopes": "all slopes were 0: the scores were taken as equal",
        "zero_slopes_of_a_task": "a task had no slope in the window: it got 1 / K",
        "zero_initial_loss": "an initial validation loss of exactly 0 was replaced by the rounding unit",
    }

    current: Tensor
    initial_losses: Tensor

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
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.warmup: int = check(self.name, "warmup", warmup, integer=True, ge=0)
        self.window: int = check(self.name, "window", window, integer=True, ge=2)
        self.tau: float = check(self.name, "tau", tau, gt=0)
        self.update_every: int = check(self.name, "update_every", update_every, integer=True, ge=1)
        if self.tau < MIN_TAU_FOR_TURNING:
            self.claims = self.claims & ~Claim.TURNED_TASK_LOSES_WEIGHT
        self.add_state("current", 1 / self.num_tasks)
        self.add_state("initial_losses", float("nan"))
        records = max(2, self.window // self.update_every)
        self.ratios: TrendWindow | TrendSinceStart = TrendWindow(self.shape, records)
        self.slope_sizes = Window(self.shape, records)
        self.largest_slopes = Series(self.batch_shape)

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """The authors' advice: the warm-up sees every validation batch once, the window is five times as long.

        With few validation batches the warm-up is 100 steps. It is at most a fifth of the run, and the window all of it.
        """
        warmup = max(MIN_WARMUP, min(max(run.val_batches, WARMUP_OF_FEW_BATCHES), run.steps // WINDOW_PER_WARMUP))
        return {"warmup": warmup, "window": WINDOW_PER_WARMUP * warmup}

    def start(self, first: Observation) -> None:
        """Remember the initial validation losses, whose ratio 1 is the first point of the regression."""
        losses, present = self.read(first, "val_losses"), self.present(first, "val_present")
        self._remember(losses, present)
        self.ratios.add_point(losses / self.initial_losses, 0.0, present)

    def scores(self) -> Scores:
        """RCS, ACS and DF, of which the present weights are made; equal scores and a DF of 1 while there are no slopes."""
        slopes = self.ratios.slopes()
        live = self._live(slopes)
        relative, absolute = self._scores(slopes, live)
        return Scores(_shared(relative, live), _shared(absolute, live), self.relative_share(self.num_updates))

    def probes(self) -> dict[str, Tensor]:
        """The three scores, as ``scores`` gives them."""
        relative, absolute, factor = self.scores()
        return {"RCS": relative, "ACS": absolute, "DF": factor.squeeze(-1)}

    def wants(self) -> Needs:
        """A validation batch at every ``update_every``-th step."""
        return Needs.VAL_LOSSES if self._records_next() else Needs.NOTHING

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, sum 1 over the present tasks, ``(*batch_shape, K)``."""
        present = self.present(now)
        weights = torch.where(present, self.current, 0.0)
        shared = divide(weights, weights.sum(-1, keepdim=True))
        # With all tasks there the weights have their sum already, and dividing by it would change last digits.
        return self.as_weights(torch.where(present.all(-1, keepdim=True), self.current, shared), now)

    def update(self, after: Observation) -> None:
        """Record the validation losses, if it is time, and weigh anew."""
        if not self._records_next():
            return
        losses, present, done = self.read(after, "val_losses"), self.present(after, "val_present"), self.num_updates + 1
        self._remember(losses, present)
        self.ratios.add_point(losses / self.initial_losses, float(self.update_every), present)
        if done >= self._first_slope:
            weights = self._weigh(present)
            if self._is_warm(done):
                self.current.copy_(weights)

    def relative_share(self, updates: int) -> Tensor:
        """The share of RCS in the weights after so many updates, ``(*batch_shape, 1)``: DF. An ablation overrides this."""
        return self.divergence_factor(updates).clamp(max=1)

    def divergence_factor(self, updates: int) -> Tensor:
        """DF before it is bounded, ``(*batch_shape, 1)``: one pass over one number per recorded step."""
        count = self._slopes_after(updates)
        if count == 0:
            return self.current.new_ones((*self.batch_shape, 1))
        largest = self.largest_slopes.first(count)
        logits = divide(-self.tau * count * largest, largest.abs().sum(-1, keepdim=True))
        return count * logits.softmax(-1).narrow(-1, count - 1, 1)

    @property
    def _first_slope(self) -> int:
        """The step from which on slopes are recorded."""
        return max(self.warmup, 1)

    def _is_warm(self, done: int) -> bool:
        """Whether the weights may move after so many steps."""
        return done >= self.warmup

    def _records_next(self) -> bool:
        return (self.num_updates + 1) % self.update_every == 0

    def _remember(self, losses: Tensor, present: Tensor) -> None:
        new = self.initial_losses.isnan() & present
        # A task without loss keeps the ratio 0, and so the slope 0, instead of 0 / 0.
        zero = losses == 0
        self.count_guard("zero_initial_loss", (new & zero).any(-1))
        divisor = torch.where(zero, torch.finfo(losses.dtype).eps, losses)
        self.initial_losses.copy_(torch.where(new, divisor, self.initial_losses))

    def _weigh(self, present: Tensor) -> Tensor:
        slopes = self.ratios.slopes()
        self.slope_sizes.add(slopes.abs().unsqueeze(-1), present)
        live = self._live(slopes)
        self.count_guard("zero_slopes", live.any(-1).logical_not())
        self.count_guard("zero_slopes_of_a_task", live.logical_not().any(-1) & live.any(-1))
        largest = torch.where(live, slopes, float("-inf")).amax(-1)
        self._record_largest(torch.where(live.any(-1), largest, 0.0))
        relative, absolute = self._scores(slopes, live)
        return _shared(torch.lerp(absolute, relative, self.relative_share(self.num_updates + 1)), live)

    def _live(self, slopes: Tensor) -> Tensor:
        """Tasks with a slope, now or in the window, bool ``(*batch_shape, K)``: only they are weighed against each other."""
        return (slopes != 0) | (self.slope_sizes.sum() > 0)

    def _scores(self, slopes: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """RCS and ACS of the live tasks, 0 for the others."""
        number = live.sum(-1, keepdim=True)
        relative = divide(number * slopes, slopes.abs().sum(-1, keepdim=True))
        absolute = divide(-self.slope_sizes.filled() * slopes, self.slope_sizes.sum())
        return _softmax(relative, live), _softmax(absolute, live)

    def _record_largest(self, largest: Tensor) -> None:
        """Keep the largest slope of this update, ``(*batch_shape)``."""
        self.largest_slopes.add(largest, self._slopes_after(self.num_updates))

    def _slopes_after(self, updates: int) -> int:
        """How often slopes were recorded in so many updates."""
        return max(0, updates // self.update_every - (self._first_slope - 1) // self.update_every)


def _softmax(scores: Tensor, live: Tensor) -> Tensor:
    """Over the live tasks; 0 for the others, and for all where there is none."""
    return torch.where(live, scores, float("-inf")).softmax(-1).nan_to_num(nan=0.0)


def _shared(weights: Tensor, live: Tensor) -> Tensor:
    """1 / K for every task that is not live; what is left is shared by the others as ``weights``, with sum 1, says."""
    return torch.where(live, live.to(weights).mean(-1, keepdim=True) * weights, 1 / weights.shape[-1])
