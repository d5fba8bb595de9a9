"""Methods on losses alone: numbers derived by hand, totals by autograd, and what they do where a number is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import weighting
from weighting import Observation, RunFacts, Weighter, replay
from weighting.relobralo import RelativeBalancing
from weighting.softadapt import SoftAdapt


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, expected: Tensor | Sequence[float], rtol: float = 1e-12) -> None:
    wanted = expected if isinstance(expected, Tensor) else vector(*expected)
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=1e-14)


def shown(weighter: Weighter, *rows: Sequence[float]) -> Tensor:
    """The weights of each step, ``(T, K)``; the first row is that of the start too."""
    seen = [Observation(losses=vector(*row)) for row in rows]
    return replay(weighter, [seen[0], *seen])


# ---- smooth Tchebycheff ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.05, 1.0, 20.0])
def test_stch_is_the_gradient_of_its_total(mu: float) -> None:
    """Of sum log L in the warm-up and the steps of the reference, of K mu log sum exp(log(L / n) / mu) after them."""
    rows = [(9.0, 9.0, 9.0), (2.0, 3.0, 8.0), (4.0, 5.0, 6.0), (1.5, 3.0, 9.0)]
    found = shown(weighting.create("stch", 3, mu=mu, warmup=1, window=2), *rows)
    close(found[:3], torch.tensor([[1 / loss for loss in row] for row in rows[:3]], dtype=torch.float64))
    losses, reference = vector(*rows[3]).requires_grad_(), vector(3, 4, 7)
    total = 3 * mu * torch.logsumexp((losses / reference).log() / mu, -1)
    (expected,) = torch.autograd.grad(total, losses)
    close(found[3], expected)


def test_stch_goes_from_the_worst_task_to_balanced_losses() -> None:
    """mu towards 0: all weight on the largest L / n; towards infinity: 1 / L. The sum of the w L is K."""
    rows = [(1.0, 1.0, 1.0), (0.5, 0.9, 0.8)]
    worst = shown(weighting.create("stch", 3, mu=1e-6, warmup=0, window=1), *rows)[-1]
    close(worst, [0, 3 / 0.9, 0])
    balanced = shown(weighting.create("stch", 3, mu=1e9, warmup=0, window=1), *rows)[-1]
    close(balanced, [2, 1 / 0.9, 1.25], rtol=1e-8)


def test_stch_averages_over_the_steps_with_the_task() -> None:
    """The second task is there in the second step of the reference alone, the third in none: its first loss after it."""
    weighter = weighting.create("stch", 3, warmup=0, window=2)
    weighter.update(Observation(losses=[2.0, 50.0, 1.0], counts=[1, 0, 0]))
    weighter.update(Observation(losses=[4.0, 10.0, 1.0], counts=[1, 1, 0]))
    now = Observation(losses=[3.0, 20.0, 7.0])
    # L / n = 1, 2 and, for the task without reference, 1.
    expected = [3 * 0.25 / 3, 3 * 0.5 / 20, 3 * 0.25 / 7]
    close(weighter.weights(now), expected)
    weighter.update(now)
    assert weighter.guards_taken() == {"late_reference": 1}
    # From then on 7 is the reference: L / n = 1, 2, 2.
    close(weighter.weights(now.replace(losses=[3.0, 20.0, 14.0])), [3 * 0.2 / 3, 3 * 0.4 / 20, 3 * 0.4 / 14])
    # A batch of two tasks: K is 2.
    close(weighter.weights(now.replace(counts=[1, 1, 0])), [2 / 3 / 3, 2 * 2 / 3 / 20, 0])


@pytest.mark.parametrize(("steps", "expected"), [(10_000, (200, 50)), (500, (80, 20)), (3, (4, 1))])
def test_stch_warms_up_for_five_epochs_or_a_fifth_of_the_run(steps: int, expected: tuple[int, int]) -> None:
    found = weighting.METHODS["stch"].defaults_for(RunFacts(steps=steps, steps_per_epoch=50, val_batches=3, seed=0))
    assert (found["warmup"], found["window"]) == expected


# ---- CoV-Weighting ---------------------------------------------------------------------------------------------------


def test_cov_weighting_by_hand() -> None:
    """Ratios 1, 2/4 and 1, 1.1: standard deviations 0.25 and 0.05 about 0.75 and 1.05; then 1/3 of the mean 3."""
    weighter = weighting.create("cov_weighting", 2)
    found = shown(weighter, (4.0, 1.0), (2.0, 1.1), (1.0, 1.05))
    close(found[:2], torch.full((2, 2), 0.5, dtype=torch.float64))
    first = vector(math.sqrt(0.25**2 + 1e-8) / 0.75, math.sqrt(0.05**2 + 1e-8) / 1.05)
    close(found[2], first / first.sum())
    ratios = torch.tensor([[1.0, 0.5, 1 / 3], [1.0, 1.1, 1.0]], dtype=torch.float64)
    variations = (ratios.var(-1, correction=0) + 1e-8).sqrt() / ratios.mean(-1)
    close(weighter.probes()["variation"], variations)
    close(weighter.weights(Observation(losses=[1.0, 1.0])), variations / variations.sum())


def test_cov_weighting_gives_an_equal_share_to_a_task_with_fewer_than_two_losses() -> None:
    weighter = weighting.create("cov_weighting", 3)
    for step, row in enumerate([(4.0, 1.0, 5.0), (2.0, 1.1, 9.0)]):
        weighter.update(Observation(losses=vector(*row), counts=[1, 1, step]))
    close(weighter.weights(Observation(losses=[1.0, 1.0, 1.0])), [0.875 * 2 / 3, 0.125 * 2 / 3, 1 / 3], rtol=1e-4)


def test_cov_weighting_does_not_divide_by_a_mean_of_zero() -> None:
    weighter = weighting.create("cov_weighting", 2)
    found = shown(weighter, (0.0, 1.0), (0.0, 1.1), (3.0, 1.0), (2.0, 1.0), (2.0, 1.0))
    assert bool(found.isfinite().all())
    assert weighter.guards_taken() == {"zero_mean": 2}


# ---- SoftAdapt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
def test_softadapt_slopes_are_exact_on_polynomials(order: int) -> None:
    """A forward difference of accuracy n is the derivative of polynomials of degree n, at the oldest point."""
    weighter = SoftAdapt(2, order=order)
    times = torch.arange(order + 1, dtype=torch.float64)
    curves = torch.stack([100 + 3 * times + times**order, 200 - 7 * times + 2 * times**order], -1)
    for row in curves:
        assert weighter.probes()["slope"].tolist() == [0, 0]
        weighter.update(Observation(losses=row))
    close(weighter.probes()["slope"], [4, -5] if order == 1 else [3, -7], rtol=1e-9)


def test_softadapt_variants_by_hand() -> None:
    """Slopes -2 and 1, means 3 and 5.5: the code divides normalized slopes by their sum, -1, which turns them round."""
    rows = [(4.0, 5.0), (2.0, 6.0)]
    slopes = vector(-2, 1)
    expected = {
        "original": (0.5 * slopes).softmax(-1),
        "loss_weighted": vector(3, 5.5) * (0.5 * slopes).exp() / (vector(3, 5.5) * (0.5 * slopes).exp()).sum(),
        "normalized": (0.5 * vector(2, -1)).softmax(-1),
    }
    for variant, weights in expected.items():
        found = shown(weighting.create("softadapt", 2, variant=variant, beta=0.5, order=1), *rows)
        close(found, torch.stack([vector(0.5, 0.5), weights]))
    favours_the_fastest = shown(weighting.create("softadapt", 2, beta=-0.5, order=1), *rows)[-1]
    close(favours_the_fastest, (-0.5 * slopes).softmax(-1))


def test_softadapt_gives_an_equal_share_to_a_task_without_a_slope() -> None:
    weighter = weighting.create("softadapt", 3, beta=1.0, order=1)
    weighter.update(Observation(losses=[4.0, 5.0, 9.0], counts=[1, 1, 0]))
    found = weighter.weights(Observation(losses=[2.0, 6.0, 100.0]))
    close(found, [*(2 / 3 * vector(-2, 1).softmax(-1)).tolist(), 1 / 3])


@pytest.mark.parametrize(
    ("variant", "rows", "guard"),
    [
        ("normalized", [(4.0, 5.0), (3.0, 6.0)], "zero_slopes"),
        ("loss_weighted", [(0.0, 0.0), (0.0, 0.0)], "zero_losses"),
    ],
)
def test_softadapt_without_anything_to_share_is_equal(variant: str, rows: list[Sequence[float]], guard: str) -> None:
    weighter = weighting.create("softadapt", 2, variant=variant, order=1)
    close(shown(weighter, *rows), torch.full((2, 2), 0.5, dtype=torch.float64))
    assert weighter.guards_taken() == {guard: 1}


def test_softadapt_refuses_negative_losses_only_as_shares() -> None:
    assert shown(weighting.create("softadapt", 2, order=1), (-1.0, 2.0), (-2.0, 2.0))[-1].argmin() == 0
    with pytest.raises(ValueError, match="softadapt: expected losses of at least 0, found -1"):
        shown(weighting.create("softadapt", 2, variant="loss_weighted"), (-1.0, 2.0))


# ---- ReLoBRaLo -------------------------------------------------------------------------------------------------------


class Drawn(RelativeBalancing):
    """With draws that are given."""

    draws: Sequence[int] = ()

    def keeps(self) -> bool:
        return bool(self.draws[self.num_updates])


def test_relobralo_by_hand() -> None:
    """L(0) = (4, 4): ones, then b(1, 0), then the last weights are kept, then the start is looked at."""
    weighter = Drawn(2, alpha=0.75, temperature=2.0)
    weighter.draws = (1, 1, 1, 0)
    found = shown(weighter, (4.0, 4.0), (2.0, 4.0), (1.0, 2.0), (1.0, 3.0))
    second = 2 * (vector(0.5, 1) / 2).softmax(-1)
    third = 0.75 * second + 0.25 * vector(1, 1)
    fourth = 0.75 * 2 * (vector(0.25, 0.75) / 2).softmax(-1) + 0.25 * 2 * (vector(1, 1.5) / 2).softmax(-1)
    close(found, torch.stack([vector(1, 1), second, third, fourth]))
    close(weighter.probes()["ratio"], [0.25, 0.75])


def test_relobralo_looks_back_as_often_as_it_says() -> None:
    """Draws of mean rho, within four standard errors; a function of seed and step."""

    def draws(seed: int, rho: float = 0.7) -> list[bool]:
        weighter = RelativeBalancing(1, rho=rho, seed=seed)
        found = []
        for _ in range(2000):
            found.append(weighter.keeps())
            weighter.update(Observation(losses=[1.0]))
        return found

    one = draws(1)
    assert abs(sum(one) / 2000 - 0.7) < 4 * math.sqrt(0.7 * 0.3 / 2000)
    assert one == draws(1) != draws(2)
    assert all(draws(1, rho=1.0)) and not any(draws(1, rho=0.0))


def test_relobralo_balances_the_tasks_of_a_batch_and_leaves_the_others() -> None:
    weighter = Drawn(3, alpha=0.0, temperature=1.0)
    weighter.draws = (1,) * 9
    for row in ((4.0, 4.0, 4.0), (2.0, 4.0, 8.0)):
        weighter.update(Observation(losses=vector(*row)))
    kept = weighter.current.clone()
    batch = Observation(losses=[1.0, 4.0, 5.0], counts=[1, 1, 0])
    close(weighter.weights(batch), [*(2 * vector(0.5, 1).softmax(-1)).tolist(), 0])
    weighter.update(batch)
    assert weighter.current[2] == kept[2]


def test_relobralo_never_divides_by_zero() -> None:
    """The last loss above 0 is the denominator, and the ratio is 1 where there is none."""
    weighter = Drawn(2, alpha=0.0, temperature=1.0)
    weighter.draws = (1,) * 9
    found = shown(weighter, (0.0, 4.0), (0.0, 2.0), (3.0, 4.0), (0.0, 4.0), (1.5, 4.0))
    expected = [(1, 0.5), (1, 2), (0, 1), (0.5, 1)]
    close(found[1:], torch.stack([2 * vector(*ratios).softmax(-1) for ratios in expected]))
    assert weighter.guards_taken() == {"zero_loss": 3}


# ---- uncertainty with log(1 + s^2) -----------------------------------------------------------------------------------


def test_liebels_gradient_is_that_of_the_papers_objective() -> None:
    """L / (2 c^2) + log(1 + c^2) with c^2 = exp(s), by autograd through one step of plain SGD; it is never below 0."""
    losses, start = vector(0.3, 2, 50), vector(-1, 0, 2)
    log_variance = start.clone().requires_grad_()
    square = log_variance.exp()
    total = (losses / (2 * square) + (1 + square).log()).sum()
    assert total > 0
    total.backward()  # type: ignore[no-untyped-call]
    weighter = weighting.create("uncertainty_liebel", 3, optimizer="sgd", lr=0.1, initial_log_variance=start)
    close(weighter.weights(Observation(losses=losses)), 1 / (2 * square.detach()))
    weighter.update(Observation(losses=losses))
    assert log_variance.grad is not None
    close(weighter.get_buffer("log_variance"), start - 0.1 * log_variance.grad)


def test_liebels_weights_settle_where_the_total_is_flat() -> None:
    """c^4 / (1 + c^2) = L / 2, where Kendall's have c^2 = L: more weight for the large loss, less for the small one."""
    step = Observation(losses=[4.0, 0.25])
    settled = replay(weighting.create("uncertainty_liebel", 2, lr=0.05), [step] * 2001)[-1]
    square = 1 / (2 * settled)
    close(square**2 / (1 + square), [2.0, 0.125], rtol=1e-6)
    assert settled[0] > 1 / (2 * 4.0) and settled[1] < 1 / (2 * 0.25)
