"""Each method's formula: numbers derived by hand, and gradients by autograd."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weighting
from weighting import Needs, Observation, Weighter
from weighting._optimizers import ElementOptimizer


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, expected: Tensor | list[float], rtol: float = 1e-12) -> None:
    wanted = expected if isinstance(expected, Tensor) else vector(*expected)
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=1e-14)


def weights_at(weighter: Weighter, *losses: float) -> Tensor:
    return weighter.weights(Observation(losses=vector(*losses)))


# ---- uniform, static -------------------------------------------------------------------------------------------------


def test_uniform_is_the_plain_sum() -> None:
    """w = (1, 1, 1), so the total of losses 2, 3, 5 is 10."""
    weights = weights_at(weighting.create("uniform", 3), 2, 3, 5)
    close(weights, [1, 1, 1])
    assert (weights * vector(2, 3, 5)).sum() == 10


def test_static_gives_what_it_was_given() -> None:
    close(weights_at(weighting.create("static", 3, weights=[0.5, 0, 2]), 2, 3, 5), [0.5, 0, 2])
    close(weights_at(weighting.create("static", 2), 2, 3), [1, 1])


# ---- token_mean ------------------------------------------------------------------------------------------------------


def test_token_mean_is_the_mean_over_all_tokens() -> None:
    """Tokens with losses 1, 2, 3 of one task and 10 of another have the mean 4; means per task are 2 and 10."""
    now = Observation(losses=[2.0, 10.0], counts=[3, 1])
    weights = weighting.create("token_mean", 2).weights(now)
    close(weights, [0.75, 0.25])
    assert float((weights * vector(2, 10)).sum()) == 4


def test_token_mean_without_counts_or_tokens() -> None:
    close(weights_at(weighting.create("token_mean", 4), 1, 2, 3, 4), [0.25] * 4)
    nothing = weighting.create("token_mean", 2).weights(Observation(losses=[1.0, 2.0], counts=[0, 0]))
    close(nothing, [0, 0])


# ---- random ----------------------------------------------------------------------------------------------------------


def draws(number: int, seed: int = 0, num_tasks: int = 3) -> Tensor:
    weighter = weighting.create("random", num_tasks, seed=seed)
    now = Observation(losses=torch.ones(num_tasks, dtype=torch.float64))
    found = []
    for _ in range(number):
        found.append(weighter.weights(now))
        weighter.update(now)
    return torch.stack(found)


def test_random_weights_have_the_moments_of_softmaxed_normals() -> None:
    """Mean 1/3 by symmetry. Second moment and covariance by integrating over the plane of differences.

    softmax(eps) depends on (eps_1 - eps_3, eps_2 - eps_3) = (u, v), normal with variances 2 and covariance 1. With Gauss-
    Hermite nodes x, y: u = sqrt(2) x, v = x / sqrt(2) + sqrt(3/2) y. Tolerance: five standard errors of 20,000 draws.
    """
    nodes, masses = np.polynomial.hermite_e.hermegauss(80)
    x, y = np.meshgrid(nodes, nodes)
    mass = np.outer(masses, masses).T / (2 * math.pi)
    u, v = math.sqrt(2) * x, x / math.sqrt(2) + math.sqrt(1.5) * y
    share = 1 / (1 + np.exp(-u) + np.exp(v - u))
    second_moment = float((mass * share**2).sum())
    assert float((mass * share).sum()) == pytest.approx(1 / 3, abs=1e-9)
    # (w1 + w2 + w3)^2 = 1 has three squares and six products of equal means.
    product = (1 - 3 * second_moment) / 6

    found = draws(20_000).numpy()
    assert np.allclose(found.sum(-1), 1, atol=1e-12)
    squares, products = found**2, found * np.roll(found, 1, axis=-1)
    for values, expected in ((found, 1 / 3), (squares, second_moment), (products, product)):
        errors = values.std(axis=0, ddof=1) / math.sqrt(len(values))
        assert (np.abs(values.mean(axis=0) - expected) < 5 * errors).all()
    # Independent from step to step.
    correlation = np.corrcoef(found[:-1, 0], found[1:, 0])[0, 1]
    assert abs(correlation) < 5 / math.sqrt(len(found))


def test_random_draws_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    one = draws(50, seed=1)
    assert torch.equal(one, draws(50, seed=1))
    assert not (one == draws(50, seed=2)).any()
    assert not (one[1:] == one[:-1]).any()
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator must be left alone"


# ---- gls, scale_invariant, lbtw ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gls", lambda losses: losses.prod() ** (1 / 3)),
        ("scale_invariant", lambda losses: losses.log().sum()),
        ("log_transform", lambda losses: (losses + 1e-8).log().sum()),
    ],
)
def test_weights_are_the_gradient_of_the_total(name: str, total: Any) -> None:
    losses = vector(0.3, 2, 50).requires_grad_()
    (expected,) = torch.autograd.grad(total(losses), losses)
    close(weights_at(weighting.create(name, 3), 0.3, 2, 50), expected)


def test_gls_does_not_overflow() -> None:
    """The product of 300 losses of 1e12 is no float64; all weights are 1 / K."""
    close(weights_at(weighting.create("gls", 300), *[1e12] * 300), torch.full((300,), 1 / 300, dtype=torch.float64))


@pytest.mark.parametrize("name", ["gls", "scale_invariant", "stch"])
def test_a_loss_of_zero_leaves_the_others_alone(name: str) -> None:
    """Its task has weight 0, the others those that they have without it; and it is counted."""
    weighter = weighting.create(name, 3)
    close(weights_at(weighter, 2, 0, 8)[[0, 2]], weights_at(weighting.create(name, 2), 2, 8))
    assert weights_at(weighter, 2, 0, 8)[1] == 0
    weighter.update(Observation(losses=vector(2, 0, 8)))
    weighter.update(Observation(losses=vector(2, 1, 8)))
    assert weighter.guards_taken() == {"zero_loss": 1}


@pytest.mark.parametrize("name", ["gls", "scale_invariant", "lbtw", "log_transform", "stch", "cov_weighting", "relobralo"])
def test_a_negative_loss_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected losses of at least 0, found -1"):
        weights_at(weighting.create(name, 2), 2, -1)


def test_lbtw_by_hand() -> None:
    """alpha = 2, L(0) = (4, 10): at (2, 30) the weights are 1/4 and 9."""
    weighter = weighting.create("lbtw", 2, alpha=2.0)
    weighter.start(Observation(losses=vector(4, 10)))
    weighter.update(Observation(losses=vector(3, 20)))
    close(weights_at(weighter, 2, 30), [0.25, 9])


def test_lbtw_official_restarts_and_sums_to_k() -> None:
    """Every second step is a first one: weights 1; else the ratios (1/2, 1) rescaled to the sum 2."""
    weighter = weighting.create("lbtw_official", 2, alpha=1.0, restart_every=2)
    weighter.start(Observation(losses=vector(1, 1)))
    rows = [(4, 6), (2, 6), (10, 1), (5, 1)]
    found = []
    for row in rows:
        found.append(weights_at(weighter, *row))
        weighter.update(Observation(losses=vector(*row)))
    close(torch.stack(found), torch.tensor([[1, 1], [2 / 3, 4 / 3], [1, 1], [2 / 3, 4 / 3]], dtype=torch.float64))


def test_gradnorm_averages_its_initial_losses() -> None:
    """Two steps with equal weights; then L(0) is their mean, and equal rates and norms leave the weights at 1."""
    weighter = weighting.create("gradnorm_libmtl", 2, initial_steps=2)
    weighter.start(Observation(losses=vector(9, 9)))
    for row in ((2, 4), (4, 8)):
        assert weighter.wants() == Needs.NOTHING
        close(weights_at(weighter, *row), [1, 1])
        weighter.update(Observation(losses=vector(*row)))
    assert weighter.wants() == Needs.GRAD_NORMS
    weighter.update(Observation(losses=vector(1.5, 3), grad_norms=vector(1, 1)))
    close(weights_at(weighter, 1, 1), [1, 1])


# ---- dwa -------------------------------------------------------------------------------------------------------------


def test_dwa_by_hand() -> None:
    """Windows of two steps, T = 2. Means (3, 10), then (1.5, 10): ratios (0.5, 1). In the third window
    w = 2 softmax(0.25, 0.5) = 2 / (1 + e^0.25), 2 / (1 + e^-0.25). Its means (3, 5) give ratios (2, 0.5), and the fourth
    window has 2 softmax(1, 0.25)."""
    weighter = weighting.create("dwa", 2, window=2, temperature=2.0)
    rows = [(4, 8), (2, 12), (1, 10), (2, 10), (4, 5), (2, 5), (1, 1)]
    found = []
    for row in rows:
        found.append(weights_at(weighter, *row))
        weighter.update(Observation(losses=vector(*row)))
    third = [2 / (1 + math.exp(0.25)), 2 / (1 + math.exp(-0.25))]
    fourth = [2 / (1 + math.exp(-0.75)), 2 / (1 + math.exp(0.75))]
    close(torch.stack(found), vector(1, 1, 1, 1, 1, 1, 1, 1, *third, *third, *fourth).reshape(7, 2))


def test_dwa_averages_over_the_steps_with_the_task() -> None:
    """The second task is missing once: its first mean is 8, not 4. Ratios (1, 10 / 8)."""
    weighter = weighting.create("dwa", 2, window=2, temperature=1.0)
    weighter.update(Observation(losses=vector(3, 8)))
    weighter.update(Observation(losses=vector(3, 0), counts=torch.tensor([True, False])))
    for _ in range(2):
        weighter.update(Observation(losses=vector(3, 10)))
    close(weights_at(weighter, 3, 10), [2 / (1 + math.exp(0.25)), 2 / (1 + math.exp(-0.25))])


# ---- uncertainty -----------------------------------------------------------------------------------------------------


def test_uncertainty_by_hand() -> None:
    """s = 0: w = 1/2, gradient (1 - L) / 2 = (-1.5, 0.25) for L = (4, 0.5). SGD with 0.1: s = (0.15, -0.025)."""
    weighter = weighting.create("uncertainty", 2, optimizer="sgd", lr=0.1)
    close(weights_at(weighter, 4, 0.5), [0.5, 0.5])
    weighter.update(Observation(losses=vector(4, 0.5)))
    close(weights_at(weighter, 4, 0.5), [math.exp(-0.15) / 2, math.exp(0.025) / 2])


def test_uncertainty_settles_where_the_total_is_flat() -> None:
    """L exp(-s) / 2 + s / 2 has its minimum at s = log L, where w = 1 / (2 L)."""
    weighter = weighting.create("uncertainty", 3, optimizer="sgd", lr=0.1)
    losses = (0.3, 1.0, 7.0)
    for _ in range(2000):
        weighter.update(Observation(losses=vector(*losses)))
    close(weights_at(weighter, *losses), [1 / (2 * loss) for loss in losses], rtol=1e-9)


def test_uncertainty_weights_and_gradient_are_those_of_its_objective() -> None:
    start = vector(-0.5, 0.2, 1.0)
    log_variance, losses = start.clone().requires_grad_(), vector(0.4, 3, 2).requires_grad_()
    total = (losses * torch.exp(-log_variance) / 2 + log_variance / 2).sum()
    by_loss, by_variance = torch.autograd.grad(total, [losses, log_variance])
    weighter = weighting.create("uncertainty", 3, optimizer="sgd", lr=0.1, initial_log_variance=start.tolist())
    close(weighter.weights(Observation(losses=losses)), by_loss)
    weighter.update(Observation(losses=losses))
    close(weighter.get_buffer("log_variance"), start - 0.1 * by_variance)


# ---- gradnorm --------------------------------------------------------------------------------------------------------


def test_gradnorm_by_hand() -> None:
    """alpha = 1, SGD with 0.1. Initial losses (2, 2), now (1, 2): rates (0.5, 1), relative to their mean 0.75: (2/3, 4/3).
    Norms (1, 3) with w = 1 have mean 2, so the targets are (4/3, 8/3); G - target = (-1/3, 1/3); gradient (-1, 3).
    w = (1.1, 0.7), rescaled by 2 / 1.8: (11/9, 7/9)."""
    weighter = weighting.create("gradnorm", 2, alpha=1.0, optimizer="sgd", lr=0.1)
    weighter.start(Observation(losses=vector(2, 2)))
    close(weights_at(weighter, 1, 2), [1, 1])
    weighter.update(Observation(losses=vector(1, 2), grad_norms=vector(1, 3)))
    close(weights_at(weighter, 1, 2), [11 / 9, 7 / 9])


def test_gradnorm_is_at_rest_where_gradients_are_balanced() -> None:
    """Equal rates and w_i n_i equal: every task is at its target, to the last bit, and nothing moves."""
    weighter = weighting.create("gradnorm", 2, optimizer="sgd", lr=0.1)
    weighter.start(Observation(losses=vector(2, 4)))
    for _ in range(5):
        weighter.update(Observation(losses=vector(1, 2), grad_norms=vector(3, 3)))
    assert torch.equal(weights_at(weighter, 1, 2), vector(1, 1))


def test_gradnorm_leaves_an_absent_task_its_weight() -> None:
    """Three tasks, the last absent: the two others share K - 1 = 2, by the numbers of the case with two tasks."""
    weighter = weighting.create("gradnorm", 3, alpha=1.0, optimizer="sgd", lr=0.1)
    weighter.start(Observation(losses=vector(2, 2, 9)))
    present = torch.tensor([True, True, False])
    weighter.update(Observation(losses=vector(1, 2, 0), grad_norms=vector(1, 3, 0), counts=present))
    close(weights_at(weighter, 1, 2, 9), [11 / 9, 7 / 9, 1])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_gradnorm_gradient_is_that_of_the_papers_objective(alpha: float) -> None:
    """A two-layer net. The paper differentiates sum_i |norm(grad_W (w_i L_i)) - target_i| by w, through the norm of a
    gradient, with the target held constant: here by double backward, in the method without."""
    torch.manual_seed(3)
    layer = nn.Linear(5, 7)
    net = nn.Sequential(layer, nn.Tanh(), nn.Linear(7, 3)).double()
    inputs, targets = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    first = vector(1.3, 0.9, 2.0)

    weights = vector(1.4, 0.7, 0.9).requires_grad_()
    losses = ((net(inputs) - targets) * vector(1, 3, 0.3)).square().mean(0)
    weighted_norms = torch.stack(
        [
            torch.autograd.grad(weight * loss, layer.weight, create_graph=True)[0].norm()
            for weight, loss in zip(weights, losses, strict=True)
        ]
    )
    rates = losses / first
    target = (weighted_norms.mean() * (rates / rates.mean()) ** alpha).detach()
    (expected,) = torch.autograd.grad((weighted_norms - target).abs().sum(), weights)

    lr = 1e-3
    weighter = weighting.create("gradnorm", 3, alpha=alpha, optimizer="sgd", lr=lr)
    weighter.start(Observation(losses=first))
    weighter.get_buffer("current").copy_(weights.detach())
    norms = weighted_norms.detach() / weights.detach()
    weighter.update(Observation(losses=losses, grad_norms=norms))
    stepped = weights.detach() - lr * expected
    close(weighter.weights(Observation(losses=losses)), 3 * stepped / stepped.sum(), rtol=1e-10)


# ---- famo ------------------------------------------------------------------------------------------------------------


def adam_first_step(gradient: Tensor, lr: float) -> Tensor:
    """Bias correction turns Adam's first moments into g and g^2."""
    return -lr * gradient / (gradient.abs() + 1e-8)


def test_famo_by_hand() -> None:
    """z = (1/2, 1/2) and D = (1, 3): w is proportional to (1, 1/3), so (3/4, 1/4)."""
    close(weights_at(weighting.create("famo", 2), 1, 3), [0.75, 0.25], rtol=2e-8)


def test_famo_weights_are_the_gradient_of_its_total() -> None:
    """The paper's total sum_i z_i log D_i / c with c = sum_i z_i / D_i held constant."""
    logits, least = vector(0.3, -1.0, 0.5), vector(-2.0, 0.5, 0.0)
    weighter = weighting.create("famo", 3, min_losses=least.tolist())
    weighter.get_buffer("logits").copy_(logits)
    losses = vector(1, 2, 5).requires_grad_()
    shares, distance = logits.softmax(-1), losses - least + 1e-8
    scale = (shares / distance).sum().detach()
    (expected,) = torch.autograd.grad((shares * distance.log()).sum() / scale, losses)
    close(weighter.weights(Observation(losses=losses)), expected)


def test_famo_step_by_autograd() -> None:
    """The gradient on the logits is J_softmax^T delta, that of softmax(logits) . delta; Adam with weight decay gamma."""
    start, gamma, lr = vector(0.3, -1.0, 0.5), 0.01, 0.05
    weighter = weighting.create("famo", 3, gamma=gamma, lr=lr)
    weighter.get_buffer("logits").copy_(start)
    before, after = vector(1, 2, 5), vector(0.9, 1.5, 5.2)
    weighter.update(Observation(losses=before, losses_after=after))
    logits = start.clone().requires_grad_()
    delta = (before + 1e-8).log() - (after + 1e-8).log()
    (gradient,) = torch.autograd.grad((logits.softmax(-1) * delta).sum(), logits)
    close(weighter.get_buffer("logits"), start + adam_first_step(gradient + gamma * start, lr))


def test_famo_turns_to_the_task_that_improves_least() -> None:
    weighter = weighting.create("famo", 2)
    for _ in range(20):
        weighter.update(Observation(losses=vector(1, 1), losses_after=vector(0.9, 1.0)))
    first, second = weights_at(weighter, 1, 1).tolist()
    assert second > first + 0.1


def test_famo_with_the_next_batch_learns_one_step_later() -> None:
    """Losses a, b, c: the first update knows no difference, the second one learns log a - log b, the third log b - log c;
    the same as if a, b and b, c had been the losses before and after a step."""
    rows = [vector(1, 2), vector(0.8, 1.9), vector(0.7, 2.1)]
    late, right_away = (weighting.create("famo", 2, lookahead=when) for when in ("next_batch", "same_batch"))
    assert late.wants() == Needs.NOTHING
    assert right_away.wants() == Needs.LOSSES_AFTER_STEP
    late.update(Observation(losses=rows[0]))
    assert torch.equal(late.get_buffer("logits"), vector(0, 0))
    for before, after in pairwise(rows):
        late.update(Observation(losses=after))
        right_away.update(Observation(losses=before, losses_after=after))
        close(late.get_buffer("logits"), right_away.get_buffer("logits"))
    assert late.get_buffer("logits").abs().min() > 0.04


def test_famo_with_the_next_batch_waits_for_absent_tasks() -> None:
    """The second task is away for a step: when it is back, its change counts from when it was last seen."""
    weighter = weighting.create("famo", 2, lookahead="next_batch", gamma=0.0)
    weighter.update(Observation(losses=vector(1, 4)))
    weighter.update(Observation(losses=vector(1, 0), counts=torch.tensor([True, False])))
    assert weighter.get_buffer("logits").tolist() == [0, 0]
    weighter.update(Observation(losses=vector(1, 2)))
    # delta = (0, log 2) and z = (1/2, 1/2): the gradients are -log(2) / 4 and log(2) / 4. It is the first task's second
    # step, after one with gradient 0: its moments are 0.1 g / 0.19 and 0.001 g^2 / 0.001999.
    gradient = math.log(2) / 4
    first = 0.025 * (0.1 * gradient / 0.19) / (math.sqrt(0.001 * gradient**2 / 0.001999) + 1e-8)
    close(weighter.get_buffer("logits"), [first, -0.025 * gradient / (gradient + 1e-8)], rtol=1e-9)


@pytest.mark.parametrize("batch_shape", [(), (2,)])
def test_famo_refuses_losses_below_their_bound(batch_shape: tuple[int, ...]) -> None:
    weighter = weighting.create("famo", 2, batch_shape=batch_shape, min_losses=[0.0, -2.0])
    fine, low = vector(1, -1.5).expand(*batch_shape, 2), vector(1, -2.5).expand(*batch_shape, 2)
    weighter.weights(Observation(losses=fine))
    for ask in (
        lambda: weighter.weights(Observation(losses=low)),
        lambda: weighter.update(Observation(losses=low, losses_after=fine)),
        lambda: weighter.update(Observation(losses=fine, losses_after=low)),
    ):
        with pytest.raises(ValueError, match=r"^famo: expected every loss above .*found one 0\.5 below$"):
            ask()
    absent = torch.tensor([True, False]).expand(*batch_shape, 2)
    close(weighter.weights(Observation(losses=low, counts=absent)), vector(1, 0).expand(*batch_shape, 2))


# ---- coba ------------------------------------------------------------------------------------------------------------


def softmax(values: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = np.exp(values - values.max())
    return np.asarray(shifted / shifted.sum())


def coba_reference(rows: np.ndarray, warmup: int, window: int, tau: float) -> np.ndarray:
    """The paper's equations for validation losses ``(T + 1, K)`` after 0, 1, ..., T steps: weights ``(T + 1, K)``."""
    ratios, num_tasks = rows / rows[0], rows.shape[1]
    slopes: list[np.ndarray] = []
    weights = []
    for t in range(len(rows)):
        if t < max(warmup, 1):
            weights.append(np.full(num_tasks, 1 / num_tasks))
            continue
        times = np.arange(max(0, t - window + 1), t + 1)
        slopes.append(np.array([np.polyfit(times, ratios[times, task], 1)[0] for task in range(num_tasks)]))
        now, number = slopes[-1], len(slopes)
        last = np.array(slopes[-window:])
        relative = softmax(num_tasks * now / np.abs(now).sum())
        absolute = softmax(-len(last) * now / np.abs(last).sum(0))
        largest = np.array([slope.max() for slope in slopes])
        factor = min(1.0, number * softmax(-tau * number * largest / np.abs(largest).sum())[-1])
        weights.append(factor * relative + (1 - factor) * absolute)
    return np.array(weights)


def coba_weights(rows: np.ndarray, name: str = "coba", **hyperparameters: Any) -> np.ndarray:
    weighter = weighting.create(name, rows.shape[1], **hyperparameters)
    shown = torch.from_numpy(rows)
    weighter.start(Observation(losses=shown[0], val_losses=shown[0]))
    found = []
    for t in range(len(rows)):
        found.append(weighter.weights(Observation(losses=shown[t])).numpy())
        if t + 1 < len(rows):
            weighter.update(Observation(losses=shown[t], val_losses=shown[t + 1]))
    return np.array(found)


def curves(steps: int = 40, seed: int = 0) -> np.ndarray:
    """Three validation losses: one falls fast, one slowly, one turns up half-way; some noise."""
    time = np.arange(steps + 1) / steps
    shapes = np.stack([np.exp(-4 * time), 1 - 0.3 * time, 1 - time + 1.5 * np.maximum(time - 0.5, 0) * 2], axis=-1)
    noise = np.exp(0.01 * np.random.default_rng(seed).standard_normal(shapes.shape))
    return np.asarray(np.array([3.0, 0.2, 50.0]) * shapes * noise)


@pytest.mark.parametrize(("warmup", "window", "tau"), [(0, 5, 5.0), (3, 6, 0.5), (8, 4, 20.0), (5, 100, 2.0)])
def test_coba_against_the_equations(warmup: int, window: int, tau: float) -> None:
    rows = curves()
    found = coba_weights(rows, warmup=warmup, window=window, tau=tau)
    np.testing.assert_allclose(found, coba_reference(rows, warmup, window, tau), rtol=1e-9)


def test_coba_by_hand() -> None:
    """Two tasks, W = 0, one step. Ratios (1, 1) and (0.5, 0.9): slopes (-0.5, -0.1). Only one slope is known, so
    ACS = softmax(-a / |a|) = (1/2, 1/2). DF: one step alone has softmax 1, so DF = 1 and w = RCS = softmax(2 a / 0.6)."""
    found = coba_weights(np.array([[4.0, 10.0], [2.0, 9.0]]), warmup=0, window=5)
    np.testing.assert_allclose(found[0], [0.5, 0.5])
    np.testing.assert_allclose(found[1], softmax(np.array([-1.0, -0.2]) / 0.6), rtol=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 2, 7])
def test_coba_is_uniform_until_the_warmup_ends(warmup: int) -> None:
    found = coba_weights(curves(), warmup=warmup, window=10)
    first = max(warmup, 1)
    assert (found[:first] == 1 / 3).all()
    assert (np.abs(found[first] - 1 / 3) > 1e-3).any()


def test_coba_takes_weight_from_a_task_that_turns_up() -> None:
    """The third task's validation loss rises from step 50 on: its share falls below all others."""
    found = coba_weights(curves(100), warmup=10, window=20)
    assert found[-1].argmin() == 2
    assert found[-1, 2] < found[45, 2] - 0.1


def test_coba_with_seldom_batches() -> None:
    """U = 4: validation losses are wanted for every fourth step only and weights hold in between. Records and weights are
    those of U = 1 with the window counted in records, since a common stretch of time cancels in all scores."""
    rows = curves()
    weighter = weighting.create("coba", 3, warmup=0, window=20, update_every=4)
    shown = torch.from_numpy(rows)
    weighter.start(Observation(losses=shown[0], val_losses=shown[0]))
    found, wanted = [], []
    for t in range(40):
        found.append(weighter.weights(Observation(losses=shown[t])).numpy())
        wanted.append(weighter.wants() == Needs.VAL_LOSSES)
        weighter.update(Observation(losses=shown[t], val_losses=shown[t + 1] if wanted[-1] else None))
    assert [t + 1 for t, asked in enumerate(wanted) if asked] == list(range(4, 41, 4))
    for t, weights in enumerate(found):
        assert (weights == found[t - t % 4]).all()
    seldom = coba_reference(rows[::4], 0, 5, 5.0)
    np.testing.assert_allclose(np.array(found[::4]), seldom[:10], rtol=1e-9)


def test_coba_fits_each_task_through_its_own_points() -> None:
    """Two tasks; the second is missing in the validation batches after steps 2 and 3. With the window of 5, after step 4
    it has the ratios at times 0, 1, 4: the slope is that through these three points, at their true distances."""
    rows = np.array([[2.0, 10.0], [1.9, 9.0], [1.7, 8.0], [1.6, 9.5], [1.3, 7.0]])
    present = torch.tensor([[True, True], [True, True], [True, False], [True, False], [True, True]])
    weighter = weighting.create("coba", 2, warmup=4, window=5)
    shown = torch.from_numpy(rows)
    weighter.start(Observation(losses=shown[0], val_losses=shown[0]))
    for t in range(4):
        weighter.update(Observation(losses=shown[t], val_losses=shown[t + 1], val_counts=present[t + 1]))
    ratios = rows / rows[0]
    slopes = np.array([np.polyfit(range(5), ratios[:, 0], 1)[0], np.polyfit([0, 1, 4], ratios[[0, 1, 4], 1], 1)[0]])
    # The first recorded slopes: DF = 1, so w = RCS.
    expected = softmax(2 * slopes / np.abs(slopes).sum())
    np.testing.assert_allclose(weights_at(weighter, 1, 1).numpy(), expected, rtol=1e-10)


def test_coba_rescales_to_the_tasks_in_the_batch() -> None:
    """Uniform thirds, one task absent: halves."""
    now = Observation(losses=vector(1, 1, 1), counts=torch.tensor([True, False, True]))
    close(weighting.create("coba", 3).weights(now), [0.5, 0, 0.5])


@pytest.mark.parametrize("name", [name for name in weighting.names() if weighting.family(name) == "coba"])
def test_coba_with_flat_curves_is_uniform(name: str) -> None:
    """All slopes zero: every score is 0 / 0, taken as equal."""
    found = coba_weights(np.full((30, 3), 2.0), warmup=3, window=6, name=name)
    np.testing.assert_allclose(found, 1 / 3, rtol=1e-12)


def test_coba_slopes_stay_exact_in_long_runs() -> None:
    """Slopes of 1e-6 per step after 5,000 steps: as exact as at the start, though t^2 is large."""
    noise = 1e-6 * np.random.default_rng(0).standard_normal((5001, 2)).cumsum(0)
    rows = 1 + noise - noise[0]
    found = coba_weights(rows, warmup=5000, window=6)[-1]
    slopes = np.array([np.polyfit(range(6), rows[-6:, task], 1)[0] for task in range(2)])
    np.testing.assert_allclose(found, softmax(2 * slopes / np.abs(slopes).sum()), rtol=1e-6)


# ---- the optimizers of the methods' own parameters -------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(("kind", "momentum"), [("adam", 0.0), ("sgd", 0.0), ("sgd", 0.9)], ids=lambda value: str(value))
def test_same_steps_as_torch(kind: Any, momentum: float, weight_decay: float) -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    theirs = nn.Parameter(start.clone())
    optimizer: torch.optim.Optimizer
    if kind == "adam":
        optimizer = torch.optim.Adam([theirs], lr=0.03, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.SGD([theirs], lr=0.03, momentum=momentum, weight_decay=weight_decay)
    ours = start.clone()
    own = ElementOptimizer("test", (2, 5), optimizer=kind, lr=0.03, momentum=momentum, weight_decay=weight_decay)
    for _ in range(50):
        gradient = 10.0 * torch.randn(2, 5, generator=draw, dtype=torch.float64)
        theirs.grad = gradient.clone()
        optimizer.step()
        own.step(ours, gradient, torch.ones(2, 5, dtype=torch.bool))
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "momentum"), [("adam", 0.0), ("sgd", 0.9)])
def test_absent_elements_sleep(kind: Any, momentum: float) -> None:
    """An element that is away for some steps goes on as if these steps had not been."""
    draw = torch.Generator().manual_seed(0)
    gradients = torch.randn(40, 3, generator=draw, dtype=torch.float64)
    present = torch.rand((40, 3), generator=draw) < 0.6
    settings: dict[str, Any] = {"optimizer": kind, "lr": 0.03, "momentum": momentum, "weight_decay": 0.01}
    together, values = ElementOptimizer("test", (3,), **settings), vector(1, -1, 0.5)
    for gradient, here in zip(gradients, present, strict=True):
        before = values.clone()
        together.step(values, torch.where(here, gradient, torch.full_like(gradient, float("nan"))), here)
        assert torch.equal(values[~here], before[~here])
    for place, start in enumerate((1.0, -1.0, 0.5)):
        alone, value = ElementOptimizer("test", (1,), **settings), vector(start)
        for gradient in gradients[present[:, place], place]:
            alone.step(value, gradient.reshape(1), torch.tensor([True]))
        close(value, values[place : place + 1])
