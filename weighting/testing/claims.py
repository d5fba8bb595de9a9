"""What each claim means: one function per claim, which raises AssertionError where a method breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from weighting import Claim, Weighter
from weighting.testing import claims_on_gradients as on_gradients
from weighting.testing.expectations import all_finite, expect
from weighting.testing.expectations import same as same_within
from weighting.testing.synthetic import Script, changed, in_order, run, script, times_factors

TOLERANCE = 1e-9
"""Relative, and absolute for weights below 1."""

Maker = Callable[[], Weighter]
"""Makes the method anew, for as many tasks as the script has."""

Checker = Callable[[Maker, Script, int], None]
"""(maker, script, seed of further draws): raises AssertionError where the claim is false."""

WITHOUT_SCALE = ("counts", "val_counts")


def same(found: Tensor, expected: Tensor, what: str = "weights") -> None:
    """Raise AssertionError unless the two agree within the tolerance."""
    same_within(found, expected, what, rtol=TOLERANCE, atol=TOLERANCE)


def nonnegative(make_one: Maker, shown: Script, seed: int) -> None:
    """w >= 0."""
    lowest = run(make_one(), shown).min()
    expect(lowest >= 0, "weights of at least 0", lowest)


def sums_to_one(make_one: Maker, shown: Script, seed: int) -> None:
    """sum w = 1, with all tasks present."""
    sums = run(make_one(), shown).sum(-1)
    same(sums, torch.ones_like(sums), "a sum of weights")


def sums_to_num_tasks(make_one: Maker, shown: Script, seed: int) -> None:
    """sum w = K, with all tasks present."""
    weights = run(make_one(), shown)
    sums = weights.sum(-1)
    same(sums, torch.full_like(sums, weights.shape[-1]), "a sum of weights")


def permutation_equivariant(make_one: Maker, shown: Script, seed: int) -> None:
    """Tasks in another order have the same weights in that order."""
    order = torch.randperm(num_tasks_of(shown), generator=torch.Generator().manual_seed(seed))
    if torch.equal(order, order.sort().values):
        order = order.flip(0)

    shuffled = shown.changed(lambda field, value: in_order(field, value, order))
    same(run(make_one(), shuffled), run(make_one(), shown)[..., order], "with tasks in another order, a weight")


def scale_free(make_one: Maker, shown: Script, seed: int) -> None:
    """A common factor on all losses at all times changes nothing."""
    factor = 10 ** (4 * torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    larger = scaled(shown, factor.expand(num_tasks_of(shown)))
    same(run(make_one(), larger), run(make_one(), shown), f"with losses times {factor:.4g}, a weight")


def task_scale_free(make_one: Maker, shown: Script, seed: int) -> None:
    """A constant factor on each task's losses changes nothing."""
    draw = torch.Generator().manual_seed(seed)
    factors = 10 ** (4 * torch.rand(num_tasks_of(shown), generator=draw, dtype=torch.float64))
    same(run(make_one(), scaled(shown, factors)), run(make_one(), shown), "with a factor on each task's losses, a weight")


def undoes_task_scales(make_one: Maker, shown: Script, seed: int) -> None:
    """A constant factor on each task's losses leaves every share w_i L_i / sum_j w_j L_j as it was."""
    draw = torch.Generator().manual_seed(seed)
    factors = 10 ** (4 * torch.rand(num_tasks_of(shown), generator=draw, dtype=torch.float64))

    def shares(seen: Script) -> Tensor:
        contributions = run(make_one(), seen) * losses_of(seen)
        return contributions / contributions.sum(-1, keepdim=True)

    same(shares(scaled(shown, factors)), shares(shown), "with a factor on each task's losses, a share")


def balances_losses(make_one: Maker, shown: Script, seed: int) -> None:
    """w_i L_i is the same for all tasks, in every step."""
    contributions = run(make_one(), shown) * losses_of(shown)
    same(contributions / contributions[..., :1], torch.ones_like(contributions), "w_i L_i / (w_0 L_0)")


def finite_on_extreme_losses(make_one: Maker, shown: Script, seed: int) -> None:
    """Weights are finite while the losses jump anywhere from 1e-12 to 1e12."""
    draw = torch.Generator().manual_seed(seed)

    def anywhere(field: str, value: Tensor) -> Tensor:
        if field in WITHOUT_SCALE:
            return value
        sizes = 10 ** (24 * torch.rand(value.shape[-1], generator=draw, dtype=torch.float64) - 12)
        if value.dim() == 1:
            return sizes
        norms = value.diagonal().sqrt() if field == "gramian" else value.abs().amax().expand_as(sizes).sqrt()
        return times_factors(field, value, sizes / norms)

    all_finite(run(make_one(), shown.changed(anywhere)), "weights while losses jump between 1e-12 and 1e12")


def favours_the_slowest(make_one: Maker, shown: Script, seed: int) -> None:
    """Where losses fall steadily, each at its own pace, no task ends with more weight than the slowest, which gained."""
    paces = paces_of(shown, seed)
    weights = run(make_one(), at_ratios(shown, 1 - times(shown) * paces))
    shares = weights / weights.sum(-1, keepdim=True)
    slowest, late = int(paces.argmin()), shares[-10:].mean(0)
    expect(late[slowest] >= late.max() - TOLERANCE, f"the largest share for the slowest task, {slowest}", late)
    least = max(float(shares[0, slowest]), 1 / len(late))
    gained = len(late) == 1 or bool(late[slowest] > least + TOLERANCE)
    expect(gained, f"a share above {least:.6g} for the slowest task, {slowest}", late)


def turned_task_loses_weight(make_one: Maker, shown: Script, seed: int) -> None:
    """A task whose loss turns up ends with the least weight, less than it had when it turned."""
    paces = paces_of(shown, seed)
    ratios = 1 - times(shown) * paces
    turned, half = int(paces.argmin()), len(ratios) // 2
    ratios[half:, turned] = ratios[half, turned] + paces.max() * torch.arange(len(ratios) - half)
    weights = run(make_one(), at_ratios(shown, ratios))
    expect(weights[-1, turned] <= weights[-1].min(), f"the least weight for the task that turned up, {turned}", weights[-1])
    fell = weights.shape[-1] == 1 or bool(weights[-1, turned] < weights[half, turned] - TOLERANCE)
    expect(fell, f"a weight below {weights[half, turned]:.6g}, that of the turn", weights[-1, turned])


def uniform_until_warmup_ends(make_one: Maker, shown: Script, seed: int) -> None:
    """The first ``weighter.warmup`` answers are 1 / K to the last digit; with several tasks, the last answer is not."""
    weighter = make_one()
    weights = run(weighter, shown)
    uniform = torch.full_like(weights, 1 / weights.shape[-1])
    warmup = vars(getattr(weighter, "inner", weighter))["warmup"]
    same_within(weights[:warmup], uniform[:warmup], "in the warm-up, a weight")
    moved = weights.shape[-1] == 1 or not torch.equal(weights[-1], uniform[-1])
    expect(moved, "weights that are not uniform after the warm-up", weights[-1])


def divergence_factor_one_at_steady_pace(make_one: Maker, shown: Script, seed: int) -> None:
    """Where ratios fall by v_i in every step, the weights become softmax_i(-K v_i / sum_j v_j): relative scores alone."""
    paces = paces_of(shown, seed)
    late = run(make_one(), at_ratios(shown, 1 - times(shown) * paces))[-10:]
    same(late, (-len(paces) * paces / paces.sum()).softmax(-1).expand_as(late), "at a steady pace, a weight")


CHECKERS: dict[Claim, Checker] = {
    Claim[check.__name__.upper()]: check
    for check in (
        nonnegative,
        sums_to_one,
        sums_to_num_tasks,
        permutation_equivariant,
        scale_free,
        task_scale_free,
        undoes_task_scales,
        balances_losses,
        finite_on_extreme_losses,
        favours_the_slowest,
        turned_task_loses_weight,
        uniform_until_warmup_ends,
        divergence_factor_one_at_steady_pace,
        on_gradients.opposes_no_task,
        on_gradients.shortest_in_the_simplex,
        on_gradients.best_for_the_worst_task,
        on_gradients.sums_projections,
        on_gradients.equal_projections,
        on_gradients.equal_gains,
        on_gradients.raises_no_query_loss,
    )
}
"""Claim -> its checker."""

CLAIMS_FOR_LARGE_LOSSES = Claim.SCALE_FREE | Claim.TASK_SCALE_FREE | Claim.UNDOES_TASK_SCALES
"""Claims that hold as far as the constants which methods add to a loss (1e-8) are small beside it: losses above 100."""


def generated_runs(claim: Claim) -> Iterator[tuple[int, Script, int]]:
    """Number of tasks, run and seed, five times: one to six tasks, losses of any scale, smooth and rough."""
    draw = torch.Generator().manual_seed(0)

    def pick(number: int) -> int:
        return int(torch.randint(number, (), generator=draw))

    for num_tasks in (1, 2, 3, 6, 4):
        seed, magnitude, roughness = pick(2**31), (1e-3, 1.0, 1e4, 1e9)[pick(4)], (0.01, 0.1, 1.0)[pick(3)]
        shown = script(num_tasks, 30, seed=seed, magnitude=magnitude, roughness=roughness)
        yield num_tasks, in_larger_units(shown) if claim in CLAIMS_FOR_LARGE_LOSSES else shown, seed


def in_larger_units(shown: Script) -> Script:
    """The run in units in which its smallest loss is 100."""
    smallest = min(
        float(value.min())
        for seen in (shown.first, *shown.steps)
        for value in (seen.losses, seen.val_losses, seen.losses_after)
        if value is not None
    )
    return scaled(shown, torch.full((num_tasks_of(shown),), 100 / smallest, dtype=torch.float64))


def first_losses(shown: Script) -> Tensor:
    """The training losses at the start, ``(K,)``."""
    if shown.first.losses is None:
        raise ValueError("expected a run with losses, found none")
    return shown.first.losses


def num_tasks_of(shown: Script) -> int:
    """K."""
    return first_losses(shown).shape[-1]


def scaled(shown: Script, factors: Tensor) -> Script:
    """The run with the losses, and with them the gradients, of each task times its factor ``(K,)``."""

    def scale(field: str, value: Tensor) -> Tensor:
        return value if field in WITHOUT_SCALE else times_factors(field, value, factors)

    return shown.changed(scale)


def losses_of(shown: Script) -> Tensor:
    """The training losses of each step, ``(T, K)``."""
    return torch.stack([step.losses for step in shown.steps if step.losses is not None])


def times(shown: Script) -> Tensor:
    """Steps done: 0 to T, ``(T + 1, 1)``."""
    return torch.arange(len(shown.steps) + 1, dtype=torch.float64).unsqueeze(-1)


def paces_of(shown: Script, seed: int) -> Tensor:
    """What the ratio of each task loses per step, ``(K,)``: all different, in any order; the fastest ends at a tenth."""
    num_tasks = num_tasks_of(shown)
    order = torch.randperm(num_tasks, generator=torch.Generator().manual_seed(seed))
    return torch.linspace(0.1, 0.9, num_tasks, dtype=torch.float64)[order] / len(shown.steps)


def at_ratios(shown: Script, ratios: Tensor) -> Script:
    """The run with losses that are, after t steps, the first ones times ``ratios[t]`` ``(T + 1, K)``; gradients of norm 1.

    Training and validation losses are the same: what a step trains on was measured after the step before.
    """
    losses = first_losses(shown) * ratios
    after = {"val_losses", "losses_after"}

    def at(t: int, field: str, value: Tensor) -> Tensor:
        if field in WITHOUT_SCALE:
            return value
        if value.dim() == 2:
            return torch.eye(len(value), dtype=value.dtype)
        if field == "grad_norms":
            return torch.ones_like(value)
        return losses[t] if field in after else losses[max(t - 1, 0)]

    rows = [
        changed(row, lambda field, value, t=t: at(t, field, value))  # type: ignore[misc]
        for t, row in enumerate((shown.first, *shown.steps))
    ]
    return Script(rows[0], rows[1:])
