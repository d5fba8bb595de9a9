"""What the claims of methods on the Gramian mean: one function per claim, which raises AssertionError where it is broken.

G is the Gramian of a step, J the gradients, w the weights of the step, all with all tasks present. Numbers are compared in
units in which the mean squared norm of the gradients is 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weighting import Weighter
from weighting.testing.expectations import expect, same
from weighting.testing.synthetic import Script, run

TOLERANCE = 1e-9

Maker = Callable[[], Weighter]


def steps_of(make_one: Maker, shown: Script) -> tuple[Tensor, Tensor]:
    """The weights and the Gramian of each step."""
    gramians = torch.stack([step.gramian for step in shown.steps if step.gramian is not None])
    return run(make_one(), shown), gramians


def times(gramian: Tensor, weights: Tensor) -> Tensor:
    """Gw: the product of the update with each gradient."""
    return (gramian @ weights.unsqueeze(-1)).squeeze(-1)


def squared(gramian: Tensor, weights: Tensor) -> Tensor:
    """w'Gw, ``(T, 1)``."""
    return (weights * times(gramian, weights)).sum(-1, keepdim=True).clamp(min=0.0)


def near(found: Tensor, expected: Tensor, what: str) -> None:
    """Raise AssertionError unless the two agree within the tolerance."""
    same(found, expected.expand_as(found), what, rtol=TOLERANCE, atol=TOLERANCE)


def opposes_no_task(make_one: Maker, shown: Script, seed: int) -> None:
    """The update w'J has a product of at least 0 with every task's gradient."""
    weights, gramian = steps_of(make_one, shown)
    norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    sizes = (weights.abs() * norms).sum(-1, keepdim=True)
    lowest = (times(gramian, weights) / norms / sizes).min()
    expect(lowest >= -TOLERANCE, "an update that opposes no task", lowest)


def shortest_in_the_simplex(make_one: Maker, shown: Script, seed: int) -> None:
    """w is the point of the simplex with the least w'Gw: (Gw)_i >= w'Gw for every task."""
    weights, gramian = steps_of(make_one, shown)
    near(weights.sum(-1), torch.ones(()), "a sum of weights")
    expect(weights.min() >= 0, "weights of at least 0", weights.min())
    gap = squared(gramian, weights) - times(gramian, weights).amin(-1, keepdim=True)
    # In units of the shortest gradient: the minimum is at most its square.
    gap = (gap / gramian.diagonal(dim1=-2, dim2=-1).amin(-1, keepdim=True)).max()
    expect(gap <= TOLERANCE, "a duality gap of 0", gap)


def best_for_the_worst_task(make_one: Maker, shown: Script, seed: int) -> None:
    """(1 + c^2) w'J maximises the least product with a gradient within c |g_0| of the mean gradient g_0."""
    weights, gramian = steps_of(make_one, shown)
    c = float(vars(getattr(make_one(), "inner", make_one()))["c"])
    mean = torch.full_like(weights, 1 / weights.shape[-1])
    move = (1 + c**2) * weights - mean
    expect(move.min() >= -TOLERANCE, "weights of at least 1 / (K (1 + c^2))", weights.min())
    unit = squared(gramian, mean).sqrt()
    near(squared(gramian, move).sqrt() / unit, torch.tensor(c, dtype=torch.float64), "the distance from the mean gradient")
    worst = times(gramian, mean + move).amin(-1, keepdim=True)
    total = move.sum(-1, keepdim=True)
    alone = (times(gramian, mean) <= times(gramian, mean).amin(-1, keepdim=True)).to(move)
    # With c = 0 the update is the mean gradient, whatever s: the bound is its product with the worst task's gradient.
    s = torch.where(total > 0, move / total, alone / alone.sum(-1, keepdim=True))
    bound = (s * times(gramian, mean)).sum(-1, keepdim=True) + c * unit * squared(gramian, s).sqrt()
    near(worst / unit**2, bound / unit**2, "the product with the worst task's gradient, in units of the mean gradient,")


def sums_projections(make_one: Maker, shown: Script, seed: int) -> None:
    """w'J is the sum of the projections of g_i / K onto the cone of updates that oppose no task."""
    weights, gramian = steps_of(make_one, shown)
    expected = torch.stack([_projected(each) for each in gramian])
    gap = (squared(gramian, weights - expected) / squared(gramian, expected)).sqrt().max()
    expect(gap <= 1e-6, "the sum of the projections", gap)


def _projected(gramian: Tensor) -> Tensor:
    """Coefficients of the summed projections, by Dykstra's cyclic projections: slow, and unlike any solver of ours."""
    number = len(gramian)
    # Row i: coefficients of what is left of g_i, and of the corrections for each half-space.
    found = torch.eye(number, dtype=gramian.dtype)
    corrections = torch.zeros_like(found)
    for _ in range(3000):
        before = found.clone()
        for task in range(number):
            found[:, task] -= corrections[:, task]
            corrections[:, task] = (-(found @ gramian[:, task]) / gramian[task, task]).clamp(min=0.0)
            found[:, task] += corrections[:, task]
        if float((found - before).abs().max()) < 1e-13:
            break
    return found.mean(0)


def equal_projections(make_one: Maker, shown: Script, seed: int) -> None:
    """The update has the same projection on every unit gradient: (Gw)_i / |g_i| is the same for all tasks."""
    weights, gramian = steps_of(make_one, shown)
    norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    found = times(gramian, weights) / norms
    sizes = (weights.abs() * norms).sum(-1, keepdim=True)
    near(found / sizes, (found / sizes).mean(-1, keepdim=True), "the projection on a unit gradient")


def equal_gains(make_one: Maker, shown: Script, seed: int) -> None:
    """w_i (Gw)_i = 1 for every task: the bargaining solution."""
    weights, gramian = steps_of(make_one, shown)
    near(weights * times(gramian, weights), torch.ones((), dtype=torch.float64), "w_i (Gw)_i")


def raises_no_query_loss(make_one: Maker, shown: Script, seed: int) -> None:
    """What a step's cross-Gramian C teaches lowers no validation loss's descent: C (w_new - w) >= 0, row for row."""
    weights = run(make_one(), shown)
    products = torch.stack([step.cross_gramian for step in shown.steps if step.cross_gramian is not None])[:-1]
    moves = weights.diff(dim=0)
    sizes = products.norm(dim=-1) * (weights[:-1].norm(dim=-1, keepdim=True) + moves.norm(dim=-1, keepdim=True))
    lowest = (times(products, moves) / sizes).min()
    expect(lowest >= -TOLERANCE, "a step of the weights after which no validation loss falls more slowly", lowest)
