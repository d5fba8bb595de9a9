"""CoBa: weights from the slopes of the validation losses, so that tasks converge together and none diverges.

Source    Gong et al., CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models, EMNLP 2024,
          arXiv:2410.06741, section 3; variant "mftcoder": codefuse-ai/MFTCoder@8ba13f4, mftcoder_accelerate,
          utils/loss_utils.py.
Symbols   r_i(t) = L_val_i(t) / L_val_i(0) after t steps; alpha_i(t) least-squares slope of the last N ratios, recorded
          from the end of the warm-up W on; n slopes recorded so far, m = min(N, n);
          RCS = softmax_i(K alpha_i / sum_j |alpha_j|)                        relative convergence scores
          ACS = softmax_i(-m alpha_i / sum of the last m |alpha_i|)           absolute convergence scores
          DF = min(1, n softmax_s(-tau n amax(s) / sum_s |amax(s)|) at s = t)  divergence factor, amax(s) = max_i alpha_i(s)
          w = DF RCS + (1 - DF) ACS, and 1/K until the warm-up ends. The weights sum to 1.
Departs   The paper's text leaves open how DF is normalised and which slopes enter it. Taken here: absolute values in
          DF's denominator; slopes count from step max(W, 1) on (``history="from_start"``: from step 1 on, with equal
          weights up to and including W); the initial ratio 1 is a point of the regression. With
          ``update_every`` = U the ratios are recorded every U steps, and the window holds the N / U of N steps. A task
          whose slopes in the window are all zero has no score: it gets 1 / K, and the others are weighed as if it were not
          there. ``components`` takes parts out: DF = 1 leaves RCS alone, DF = 0 ACS
          alone, DF = ``mix`` mixes both without looking at the past.
          Variant "mftcoder" does as that code does: slope of the maximum ratio instead of the maximum slope, no bound
          on DF, a softmax of K (DF RCS + (1 - DF) ACS) and a least weight of 1 / (10 K) at the end, nothing recorded
          after the first step, no window on the ratios when U >= 2, and ACS over the last N - W + 1 updates at most. Its
          window counts stored records, those without the task included; a validation loss of exactly 0 is an absence, and
          the points that are left are numbered without gaps. Where all slopes of a task in the window of ACS are 0 that code
          gives NaN, and where no record in the window has any task it stops; here these slopes count as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from weighting._checks import check, check_choice
from weighting._windows import Series, TrendSinceStart, TrendWindow, Window, divide
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Needs, Observation, RunFacts

MIN_WARMUP = 20
"""Steps. The paper's rule, as many steps as there are validation batches, leaves nothing to fit when these are few."""

MIN_TAU_FOR_TURNING = 1.0
"""From here on the divergence factor falls fast enough for a task that turns to end with the least weight."""


class Scores(NamedTuple):
    """What CoBa's weights are made of."""

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
    variant       "paper" | "mftcoder"; the latter asks for a warm-up of at least 3 U, a multiple of U, and W <= N U
    history       "from_warmup" | "from_start", whether slopes of the warm-up count; the latter with variant "paper" only
    components    "full" | "relative" (RCS) | "absolute" (ACS) | "fixed_mix"
    mix           in [0, 1], the share of RCS with components "fixed_mix"

    Defaults are those of MFTCoder's configuration; ``defaults_for`` gives those that suit a run.
    """

    name = "coba"
    version = 2
    needs = Needs.VAL_LOSSES
    feedback = "validation"
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
        "zero_slopes_of_a_task": "a task had no slope in the window: it got 1 / K (variant mftcoder: an ACS as for slope 0)",
        "least_weight": "a weight under 1 / (10 K) was found and all were raised towards it (variant mftcoder)",
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
        window: int = 200,
        tau: float = 5.0,
        update_every: int = 1,
        variant: Literal["paper", "mftcoder"] = "paper",
        history: Literal["from_warmup", "from_start"] = "from_warmup",
        components: Literal["full", "relative", "absolute", "fixed_mix"] = "full",
        mix: float = 0.5,
    ) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.warmup: int = check(self.name, "warmup", warmup, integer=True, ge=0)
        window = check(self.name, "window", window, integer=True, ge=2)
        self.tau: float = check(self.name, "tau", tau, gt=0)
        self.update_every: int = check(self.name, "update_every", update_every, integer=True, ge=1)
        check_choice(self.name, "variant", variant, ("paper", "mftcoder"))
        check_choice(
            self.name, "history", history, ("from_warmup", "from_start") if variant == "paper" else ("from_warmup",)
        )
        check_choice(self.name, "components", components, ("full", "relative", "absolute", "fixed_mix"))
        self.mix: float = check(self.name, "mix", mix, ge=0)
        check(self.name, "1 - mix", 1 - self.mix, ge=0)
        self.history, self.components, self.variant = history, components, variant
        self.claims = self.claims & ~self._given_up()
        self.add_state("current", 1 / self.num_tasks)
        self.add_state("initial_losses", float("nan"))
        if components == "full":
            self.largest_slopes = Series(self.batch_shape)
        if variant == "paper":
            records = max(2, window // self.update_every)
            self.ratios: TrendWindow | TrendSinceStart = TrendWindow(self.shape, records)
            self.slope_sizes = Window(self.shape, records)
        else:
            self._prepare_mftcoder(self.warmup, window)

    def _prepare_mftcoder(self, warmup: int, window: int) -> None:
        every = self.update_every
        if warmup < 3 * every or warmup % every:
            expected = f"a multiple of update_every = {every}, at least {3 * every}"
            raise ValueError(f"coba: expected warmup to be {expected}, with variant 'mftcoder', found {warmup}")
        if window < warmup // every:
            raise ValueError(
                f"coba: expected window to be at least warmup / update_every = {warmup // every} "
                f"with variant 'mftcoder', found {window}"
            )
        if every == 1:
            self.ratios = TrendWindow(self.shape, window)
            self.largest_ratio: TrendWindow | TrendSinceStart = TrendWindow((*self.batch_shape, 1), window)
        else:
            self.ratios = TrendSinceStart(self.shape)
            self.largest_ratio = TrendSinceStart((*self.batch_shape, 1))
        self.slope_sizes = Window(self.shape, window - warmup // every + 1)

    def _given_up(self) -> Claim:
        """RCS alone favours the slowest and cannot turn from a task; ACS alone sees no difference between steady paces."""
        given_up = {
            "full": Claim.NOTHING if self.tau >= MIN_TAU_FOR_TURNING else Claim.TURNED_TASK_LOSES_WEIGHT,
            "relative": Claim.TURNED_TASK_LOSES_WEIGHT,
            "absolute": Claim.FAVOURS_THE_SLOWEST | Claim.DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE,
            "fixed_mix": Claim.TURNED_TASK_LOSES_WEIGHT | Claim.DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE,
        }[self.components]
        return given_up if self.variant == "paper" else given_up | Claim.DIVERGENCE_FACTOR_ONE_AT_STEADY_PACE

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """The authors' advice: the warm-up sees every validation batch once, the window is five times as long."""
        warmup = max(run.val_batches, MIN_WARMUP)
        return {"warmup": warmup, "window": 5 * warmup}

    def start(self, first: Observation) -> None:
        """Remember the initial validation losses."""
        losses, present = self.read(first, "val_losses"), self.present(first, "val_present")
        self._remember(losses, present)
        if self.variant == "paper":
            self.ratios.add_point(losses / self.initial_losses, 0.0, present)

    def scores(self) -> Scores:
        """RCS, ACS and DF, of which the present weights are made; equal scores and a DF of 1 while there are no slopes."""
        slopes = self.ratios.slopes()
        live = self._live(slopes) if self.variant == "paper" else torch.ones_like(slopes, dtype=torch.bool)
        found = self._scores(slopes, live, self.num_updates)
        bounded = found.divergence_factor.clamp(max=1) if self.variant == "paper" else found.divergence_factor
        return Scores(self._with_shares(found.relative, live), self._with_shares(found.absolute, live), bounded)

    def probes(self) -> dict[str, Tensor]:
        """The three scores, as ``scores`` gives them."""
        scores = self.scores()
        return {"RCS": scores.relative, "ACS": scores.absolute, "DF": scores.divergence_factor.squeeze(-1)}

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
        records = self._records_next()
        present = self.present(after, "val_present")
        if records:
            self._record(self.read(after, "val_losses"), present)
        done = self.num_updates + 1
        if self.variant == "paper":
            if records and (self.history == "from_start" or done >= max(self.warmup, 1)):
                weights = self._paper_weights(present)
                if self.history == "from_warmup" or done > self.warmup:
                    self.current.copy_(weights)
        elif done >= self.warmup and done % self.update_every == 0:
            self.current.copy_(self._mftcoder_weights())

    def _records_next(self) -> bool:
        done = self.num_updates
        if self.variant == "paper":
            return (done + 1) % self.update_every == 0
        return done > 0 and done % self.update_every == 0

    def _remember(self, losses: Tensor, present: Tensor) -> None:
        new = self.initial_losses.isnan() & present
        # A task without loss keeps the ratio 0, and so the slope 0, instead of 0 / 0.
        zero = losses == 0
        self.count_guard("zero_initial_loss", (new & zero).any(-1))
        divisor = torch.where(zero, torch.finfo(losses.dtype).eps, losses)
        self.initial_losses.copy_(torch.where(new, divisor, self.initial_losses))

    def _record(self, losses: Tensor, present: Tensor) -> None:
        self._remember(losses, present)
        ratios = losses / self.initial_losses
        if self.variant == "paper":
            self.ratios.add_point(ratios, float(self.update_every), present)
            return
        # That code keeps a record for every task, takes a loss of 0 for an absence, and numbers what is left without gaps.
        there = present & (losses != 0)
        self.ratios.add_record(ratios, there)
        largest = torch.where(there, ratios, float("-inf")).amax(-1, keepdim=True)
        self.largest_ratio.add_record(largest, there.any(-1, keepdim=True))

    def _paper_weights(self, present: Tensor) -> Tensor:
        slopes = self.ratios.slopes()
        self.slope_sizes.add(slopes.abs().unsqueeze(-1), present)
        live = self._live(slopes)
        self.count_guard("zero_slopes", live.any(-1).logical_not())
        self.count_guard("zero_slopes_of_a_task", live.logical_not().any(-1) & live.any(-1))
        largest = torch.where(live, slopes, float("-inf")).amax(-1)
        self._record_largest(torch.where(live.any(-1), largest, 0.0))
        scores = self._scores(slopes, live, self.num_updates + 1)
        weights = torch.lerp(scores.absolute, scores.relative, scores.divergence_factor.clamp(max=1))
        return self._with_shares(weights, live)

    def _mftcoder_weights(self) -> Tensor:
        slopes = self.ratios.slopes()
        everyone = torch.ones_like(slopes, dtype=torch.bool)
        self.slope_sizes.add(slopes.abs().unsqueeze(-1), everyone)
        dead = self.slope_sizes.sum() == 0
        self.count_guard("zero_slopes", (slopes == 0).all(-1))
        self.count_guard("zero_slopes_of_a_task", dead.any(-1) & dead.logical_not().any(-1))
        self._record_largest(self.largest_ratio.slopes().squeeze(-1))
        scores = self._scores(slopes, everyone, self.num_updates + 1)
        mixed = torch.lerp(scores.absolute, scores.relative, scores.divergence_factor)
        weights = (self.num_tasks * mixed).softmax(-1)
        least = 1 / (10 * self.num_tasks)
        below = weights.amin(-1, keepdim=True) < least
        self.count_guard("least_weight", below.squeeze(-1))
        raised = weights * (1 - least * self.num_tasks) + least
        return torch.where(below, raised, weights)

    def _live(self, slopes: Tensor) -> Tensor:
        """Tasks with a slope, now or in the window, bool ``(*batch_shape, K)``: only they are weighed against each other."""
        return (slopes != 0) | (self.slope_sizes.sum() > 0)

    def _with_shares(self, weights: Tensor, live: Tensor) -> Tensor:
        """1 / K for every task that is not live; what is left is shared by the others as ``weights``, with sum 1, says."""
        return torch.where(live, live.to(weights).mean(-1, keepdim=True) * weights, 1 / self.num_tasks)

    def _scores(self, slopes: Tensor, live: Tensor, updates: int) -> Scores:
        """The scores of the live tasks after so many updates; DF is not yet bounded."""
        number = live.sum(-1, keepdim=True)
        relative = divide(number * slopes, slopes.abs().sum(-1, keepdim=True))
        absolute = divide(-self.slope_sizes.filled() * slopes, self.slope_sizes.sum())
        return Scores(_softmax(relative, live), _softmax(absolute, live), self._divergence_factor(slopes, updates))

    def _record_largest(self, largest: Tensor) -> None:
        """Keep the largest slope of this update, ``(*batch_shape)``, if DF is made of them."""
        if self.components == "full":
            self.largest_slopes.add(largest, self._slopes_after(self.num_updates))

    def _slopes_after(self, updates: int) -> int:
        """How often slopes were recorded in so many updates."""
        first = 1 if self.history == "from_start" else max(self.warmup, 1)
        return max(0, updates // self.update_every - (first - 1) // self.update_every)

    def _divergence_factor(self, slopes: Tensor, updates: int) -> Tensor:
        """DF before it is bounded, ``(*batch_shape, 1)``: one pass over one number per recorded step."""
        count = self._slopes_after(updates)
        if self.components != "full" or count == 0:
            share = {"full": 1.0, "relative": 1.0, "absolute": 0.0, "fixed_mix": self.mix}[self.components]
            return slopes.new_full((*self.batch_shape, 1), share)
        largest = self.largest_slopes.first(count)
        logits = divide(-self.tau * count * largest, largest.abs().sum(-1, keepdim=True))
        return count * logits.softmax(-1).narrow(-1, count - 1, 1)


def _softmax(scores: Tensor, live: Tensor) -> Tensor:
    """Over the live tasks; 0 for the others, and for all where there is none."""
    return torch.where(live, scores, float("-inf")).softmax(-1).nan_to_num(nan=0.0)
