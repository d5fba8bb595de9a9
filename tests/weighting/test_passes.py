"""Passes beside the training leave no trace, not even in buffers that are written to behind autograd's back."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.harness.randomness import undisturbed
from weighting.passes import Draws, apart


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))


def trace(model: nn.Module) -> list[object]:
    """Buffers, modes and the next random numbers; drawing them leaves no trace either."""
    before, state = Draws.now(), np.random.get_state()  # noqa: NPY002
    drawn = [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002
    before.restore()
    np.random.set_state(state)  # noqa: NPY002
    buffers = [value.tolist() for value in model.buffers()]
    return [buffers, [module.training for module in model.modules()], drawn]


def in_harness(model: nn.Module, *, evaluation: bool) -> AbstractContextManager[None]:
    return undisturbed(model, torch.device("cpu"), evaluation=evaluation)


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("kind", [apart, in_harness])
def test_a_pass_leaves_no_trace(kind: Callable[..., AbstractContextManager[None]], evaluation: bool) -> None:
    model = network()
    model[2].eval()
    before = trace(model)
    with kind(model, evaluation=evaluation):
        assert model.training is not evaluation
        model(torch.randn(8, 3) + 5)
        random.random()
        if kind is in_harness:
            np.random.rand()  # noqa: NPY002
    assert trace(model) == before


def test_without_a_pass_apart_batch_normalization_would_remember() -> None:
    model = network()
    before = trace(model)
    model(torch.randn(8, 3) + 5)
    assert trace(model)[0] != before[0]


def test_a_pass_that_fails_leaves_no_trace() -> None:
    model = network()
    before = trace(model)
    with pytest.raises(RuntimeError, match="mat1"), apart(model, evaluation=False):
        torch.rand(())
        model(torch.randn(8, 2))
    assert trace(model) == before


def test_a_pass_draws_what_another_drew() -> None:
    model, x = network()[2:3], torch.ones(4, 5)
    draws = Draws.now()
    first = model(x)
    with apart(model, evaluation=False, draws=draws):
        again = model(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, model(x))


def test_a_graph_is_made_on_request_alone() -> None:
    model, x = network(), torch.randn(8, 3)
    with apart(model, evaluation=False):
        assert not model(x).requires_grad
    with apart(model, evaluation=False, grad=True):
        assert model(x).requires_grad
