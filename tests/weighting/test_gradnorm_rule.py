"""GradNorm's rule below 0: derived independently, by autograd through the norms of the gradients of w_i L_i."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import weighting
from weighting import Observation
from weighting.gradnorm import GradNorm

K, SIZE, STEPS = 4, 6, 160


def observed(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Losses ``(K,)`` and unweighted gradients ``(K, SIZE)`` of each step: one task is far ahead, so its weight falls."""
    draw = torch.Generator().manual_seed(seed)
    speed = torch.tensor([0.05, 0.001, 0.002, 0.0], dtype=torch.float64)
    scale = torch.tensor([8.0, 1.0, 0.5, 2.0], dtype=torch.float64)
    losses, gradients = [], []
    for step in range(STEPS):
        noise = 1 + 0.1 * torch.rand(K, generator=draw, dtype=torch.float64)
        losses.append(scale * torch.exp(-speed * step) * noise)
        gradients.append(scale.unsqueeze(-1) * torch.randn(K, SIZE, generator=draw, dtype=torch.float64))
    return losses, gradients


def by_autograd(losses: list[Tensor], gradients: list[Tensor], alpha: float, optimizer: str, lr: float) -> Tensor:
    """The weights before each step, from equations (1) and (2) and Algorithm 1 alone."""
    weights = torch.ones(K, dtype=torch.float64, requires_grad=True)
    kind = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
    own = kind([weights], lr=lr)
    found = []
    for loss, gradient in zip(losses, gradients, strict=True):
        found.append(weights.detach().clone())
        norms = torch.stack([(weights[i] * gradient[i]).norm() for i in range(K)])
        rate = loss / losses[0]
        target = (norms.mean() * (rate / rate.mean()) ** alpha).detach()
        own.zero_grad()
        (norms - target).abs().sum().backward()  # type: ignore[no-untyped-call]
        own.step()
        with torch.no_grad():
            weights *= K / weights.sum()
    return torch.stack(found)


def ours(losses: list[Tensor], gradients: list[Tensor], **more: Any) -> tuple[Tensor, GradNorm]:
    weighter = weighting.create("gradnorm", K, **more)
    assert isinstance(weighter, GradNorm)
    weighter.start(Observation(losses=losses[0]))
    found = []
    for loss, gradient in zip(losses, gradients, strict=True):
        found.append(weighter.weights(Observation(losses=loss)))
        weighter.update(Observation(losses=loss, grad_norms=gradient.norm(dim=-1)))
    return torch.stack(found), weighter


@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 0.05), ("sgd", 0.004)])
@pytest.mark.parametrize("alpha", [0.12, 1.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_negative_weights_follow_the_norm_of_the_weighted_loss(seed: int, alpha: float, optimizer: str, lr: float) -> None:
    losses, gradients = observed(seed)
    expected = by_autograd(losses, gradients, alpha, optimizer, lr)
    found, weighter = ours(losses, gradients, alpha=alpha, optimizer=optimizer, lr=lr, floor=0)
    assert (expected < 0).any(), "the trace is to have weights below 0"
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert weighter.guards_taken()["negative_weight"] == int((expected[1:] < 0).any(-1).sum()) + int(
        (weighter.weights(Observation(losses=losses[0])) < 0).any()
    )


@pytest.mark.parametrize("floor", [1e-3, 0.05])
def test_with_a_floor_no_weight_is_below_it_and_the_sum_holds(floor: float) -> None:
    losses, gradients = observed(0)
    found, weighter = ours(losses, gradients, alpha=1.5, lr=0.05, floor=floor)
    assert found.min() >= floor * (1 - 1e-12)
    assert found.min() < floor * 1.5
    torch.testing.assert_close(found.sum(-1), torch.full((STEPS,), float(K), dtype=torch.float64))
    assert weighter.guards_taken()["floored"] > 0


def test_where_no_weight_comes_near_it_the_floor_changes_no_bit() -> None:
    losses, gradients = observed(2)
    even = [loss.new_ones(K) * (1 + 0.01 * step) for step, loss in enumerate(losses)]
    norms = [gradient / gradient.norm(dim=-1, keepdim=True) for gradient in gradients]
    found, weighter = ours(even, norms, lr=0.001)
    assert not weighter.guards_taken()
    assert torch.equal(found, ours(even, norms, lr=0.001, floor=0)[0])


def test_the_floor_with_absent_tasks() -> None:
    """An absent task keeps its weight; the others share the rest, none below the floor."""
    losses, gradients = observed(3)
    weighter = weighting.create("gradnorm", K, floor=0.05, lr=0.1)
    weighter.start(Observation(losses=losses[0]))
    for step, (loss, gradient) in enumerate(zip(losses, gradients, strict=True)):
        counts = torch.ones(K)
        counts[step % K] = 0
        before = weighter.get_buffer("current").clone()
        weighter.update(Observation(losses=loss, counts=counts, grad_norms=gradient.norm(dim=-1)))
        after = weighter.get_buffer("current")
        assert after[step % K] == before[step % K]
        assert float(after.sum()) == pytest.approx(K)
        assert after.min() >= 0.05 * (1 - 1e-12)
