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
          ``update_every`` = U the ratios are recorded every U steps, and the window holds the N / U of N steps. Where
          all slopes are zero the scores are equal. ``components`` takes parts out: DF = 1 leaves RCS alone, DF = 0 ACS
          alone, DF = ``mix`` mixes both without looking at the past.
          Variant "mftcoder" does as that code does: slope of the maximum ratio instead of the maximum slope, no bound
          on DF, a softmax of K (DF RCS + (1 - DF) ACS) and a least weight of 1 / (10 K) at the end, nothing recorded
          after the first step, no window on the ratios when U >= 2, and ACS over the last N - W + 1 updates at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from weighting.base import Needs, Observation, RunFacts, Weighter, check, check_choice
from weighting.history import Series, TrendSinceStart, TrendWindow, Window, divide

LEAST_WARMUP = 20
"""Steps. The paper's rule, as many steps as there are validation batches, leaves nothing to fit when these are few."""

LEAST_WATCHFUL_TAU = 1.0
"""From here on the divergence factor falls fast enough for a task that turns to end with the least weight."""


class _Scores(NamedTuple):
    relative: Tensor
    absolute: Tensor
    divergence_factor: Tensor
    """``(*batch_shape, 1)``, not yet bounded."""


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
    needs = Needs.VAL_LOSSES
    feedback = "validation"
    claims = frozenset(
        {
            "nonnegative",
            "sums_to_one",
            "permutation_equivariant",
            "scale_free",
            "task_scale_free",
            "finite_on_extreme_losses",
            "uniform_until_warmup_ends",
            "favours_the_slowest",
            "turned_task_loses_weight",
            "divergence_factor_one_at_steady_pace",
        }
    )
    search = {"tau": (2, 5, 10, 20)}
    guards = {
        "zero_slopes": "all slopes were 0: the scores were taken as equal",
        "least_weight": "a weight under 1 / (10 K) was found and all were raised towards it (variant mftcoder)",
        "zero_initial_loss": "an initial validation loss of exactly 0 was replaced by the rounding unit",
    }

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
        check(self.name, "warmup", warmup, integer=True, least=0)
        check(self.name, "window", window, integer=True, least=2)
        check(self.name, "tau", tau, above=0)
        check(self.name, "update_every", update_every, integer=True, least=1)
        check_choice(self.name, "variant", variant, ("paper", "mftcoder"))
        check_choice(
            self.name, "history", history, ("from_warmup", "from_start") if variant == "paper" else ("from_warmup",)
        )
        check_choice(self.name, "components", components, ("full", "relative", "absolute", "fixed_mix"))
        check(self.name, "mix", mix, least=0)
        check(self.name, "1 - mix", 1 - mix, least=0)
        self.history, self.components, self.mix = history, components, mix
        self.warmup, self.tau, self.update_every, self.variant = warmup, tau, update_every, variant
        self.add_state("current", 1 / num_tasks)
        self.add_state("initial_losses", float("nan"))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.current: Tensor
        self.initial_losses: Tensor
        self.steps: Tensor
        if components == "full":
            self.largest_slopes = Series(self.batch_shape)
        if variant == "paper":
            records = max(2, window // update_every)
            self.ratios: TrendWindow | TrendSinceStart = TrendWindow(self.shape, records)
            self.slope_sizes = Window(self.shape, records)
        else:
            self._prepare_mftcoder(warmup, window)

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

    @classmethod
    def defaults_for(cls, run: RunFacts) -> dict[str, Any]:
        """The authors' advice: the warm-up sees every validation batch once, the window is five times as long."""
        warmup = max(run.val_batches, LEAST_WARMUP)
        return {"warmup": warmup, "window": 5 * warmup}

    def claimed(self) -> frozenset[str]:
        """RCS alone favours the slowest and cannot turn from a task; ACS alone sees no difference between steady paces."""
        lacks = {
            "full": set() if self.tau >= LEAST_WATCHFUL_TAU else {"turned_task_loses_weight"},
            "relative": {"turned_task_loses_weight"},
            "absolute": {"favours_the_slowest", "divergence_factor_one_at_steady_pace"},
            "fixed_mix": {"turned_task_loses_weight", "divergence_factor_one_at_steady_pace"},
        }[self.components]
        if self.variant == "mftcoder":
            lacks = lacks | {"divergence_factor_one_at_steady_pace"}
        return self.claims - lacks

    def start(self, first: Observation) -> None:
        """Remember the initial validation losses."""
        losses, present = self.read(first, "val_losses"), self._val_present(first)
        self._remember(losses, present)
        if self.variant == "paper":
            self.ratios.add_point(losses / self.initial_losses, 0.0, present)

    def wants(self) -> Needs:
        """A validation batch at every ``update_every``-th step."""
        return Needs.VAL_LOSSES if self._records_next() else Needs.NOTHING

    def weights(self, now: Observation) -> Tensor:
        """Nonnegative, sum 1 over the present tasks, ``(*batch_shape, K)``."""
        if now.present is None:
            return self.reply(self.current, now)
        weights = torch.where(self.present(now), self.current, torch.zeros_like(self.current))
        return self.reply(weights / weights.sum(-1, keepdim=True), now)

    def update(self, after: Observation) -> None:
        """Record the validation losses, if it is time, and weigh anew."""
        records = self._records_next()
        present = self._val_present(after)
        if records:
            self._record(self.read(after, "val_losses"), present)
        self.steps.add_(1)
        done = int(self.steps)
        if self.variant == "paper":
            if records and (self.history == "from_start" or done >= max(self.warmup, 1)):
                weights = self._paper_weights(present)
                if self.history == "from_warmup" or done > self.warmup:
                    self.current.copy_(weights)
        elif done >= self.warmup and done % self.update_every == 0:
            self.current.copy_(self._mftcoder_weights())

    def _val_present(self, seen: Observation) -> Tensor | None:
        return None if seen.val_present is None else self.present(seen, "val_present")

    def _records_next(self) -> bool:
        done = int(self.steps)
        if self.variant == "paper":
            return (done + 1) % self.update_every == 0
        return done > 0 and done % self.update_every == 0

    def _remember(self, losses: Tensor, present: Tensor | None) -> None:
        new = self.initial_losses.isnan() if present is None else self.initial_losses.isnan() & present
        # A task without loss keeps the ratio 0, and so the slope 0, instead of 0 / 0.
        zero = losses == 0
        self.took("zero_initial_loss", (new & zero).any(-1))
        divisor = torch.where(zero, torch.finfo(losses.dtype).eps, losses)
        self.initial_losses.copy_(torch.where(new, divisor, self.initial_losses))

    def _record(self, losses: Tensor, present: Tensor | None) -> None:
        self._remember(losses, present)
        ratios = losses / self.initial_losses
        if self.variant == "paper":
            self.ratios.add_point(ratios, float(self.update_every), present)
            return
        # That code numbers each task's own records, without the gaps that an absent task leaves.
        self.ratios.add_point(ratios, 1.0 if present is None else present.to(ratios), present)
        if present is None:
            self.largest_ratio.add_point(ratios.amax(-1, keepdim=True), 1.0, None)
        else:
            largest = ratios.masked_fill(~present, float("-inf")).amax(-1, keepdim=True)
            self.largest_ratio.add_point(largest, 1.0, present.any(-1, keepdim=True))

    def _paper_weights(self, present: Tensor | None) -> Tensor:
        slopes = self.ratios.slopes()
        scores = self._scores(slopes, slopes.amax(-1), present)
        return torch.lerp(scores.absolute, scores.relative, scores.divergence_factor.clamp(max=1))

    def _mftcoder_weights(self) -> Tensor:
        slopes = self.ratios.slopes()
        scores = self._scores(slopes, self.largest_ratio.slopes().squeeze(-1), None)
        mixed = torch.lerp(scores.absolute, scores.relative, scores.divergence_factor)
        weights = (self.num_tasks * mixed).softmax(-1)
        least = 1 / (10 * self.num_tasks)
        below = weights.amin(-1, keepdim=True) < least
        self.took("least_weight", below.squeeze(-1))
        raised = weights * (1 - least * self.num_tasks) + least
        return torch.where(below, raised, weights)

    def _scores(self, slopes: Tensor, largest: Tensor, present: Tensor | None) -> _Scores:
        """Record the slopes ``(*batch_shape, K)`` and the largest ``(*batch_shape)``, and score them."""
        sizes = slopes.abs()
        self.slope_sizes.add(sizes.unsqueeze(-1), present)
        total = sizes.sum(-1, keepdim=True)
        self.took("zero_slopes", (total == 0).squeeze(-1))
        relative = divide(self.num_tasks * slopes, total).softmax(-1)
        absolute = divide(-self.slope_sizes.filled() * slopes, self.slope_sizes.sum()).softmax(-1)
        return _Scores(relative, absolute, self._divergence_factor(largest))

    def _divergence_factor(self, largest: Tensor) -> Tensor:
        """DF before it is bounded, ``(*batch_shape, 1)``: one pass over one number per recorded step."""
        if self.components != "full":
            share = {"relative": 1.0, "absolute": 0.0, "fixed_mix": self.mix}[self.components]
            return largest.new_full((*self.batch_shape, 1), share)
        self.largest_slopes.add(largest)
        slopes = self.largest_slopes.all()
        count = len(self.largest_slopes)
        logits = divide(-self.tau * count * slopes, slopes.abs().sum(-1, keepdim=True))
        return count * logits.softmax(-1)[..., -1:]
