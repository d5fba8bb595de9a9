"""Gradient norms of single tasks come through activation checkpointing, or it is said that they do not."""

from __future__ import annotations

import pytest
import torch
from by_hand import (
    LR,
    by_hand,
    counts_of,
    flat,
    model,
    sums_of,
    training_batches,
)
from by_step import local_means, parts_of, stepped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Checkpointed(nn.Module):
    """A model whose layers are recomputed in the backward pass."""

    def __init__(self, inner: nn.Sequential, *, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = checkpoint(self.inner, inputs.requires_grad_(self.reentrant), use_reentrant=self.reentrant)
        return found


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_norms_come_through_activation_checkpointing(reentrant: bool) -> None:
    trained = model()
    forward = Checkpointed(trained, reentrant=reentrant)
    step, optimizer = stepped(trained, "gradnorm"), torch.optim.SGD(trained.parameters(), lr=LR)
    for whole in training_batches():
        parts = parts_of(whole, 2)
        step.open(torch.stack([counts_of(part) for part in parts]).sum(0), local_means(trained, parts))
        optimizer.zero_grad()
        for part in parts if reentrant else []:
            step.gradients_of(sums_of(forward, part))
        for part in parts:
            step.total(sums_of(forward, part)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step.close()
    torch.testing.assert_close(flat(trained), by_hand("gradnorm").parameters, rtol=1e-10, atol=1e-10)


def test_hidden_gradients_are_an_error_and_not_zeros() -> None:
    trained = model()
    forward = Checkpointed(trained, reentrant=True)
    step = stepped(trained, "gradnorm")
    (part,) = parts_of(training_batches()[0], 1)
    step.open(counts_of(part))
    with pytest.raises(RuntimeError, match=r"re-entrant activation checkpointing; use use_reentrant=False"):
        step.total(sums_of(forward, part))
