"""Steps whose micro-batches are at hand: which passes are made beside training, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from by_hand import LR, METHODS, Batch, by_hand, counts_of, flat, model, sums_of, training_batches
from by_step import parts_of, stepped
from torch import Tensor, nn

from weighting import MicroBatches, WeightedStep

Pass = Callable[[Batch], Tensor]


def train_on(batches: list[Batch], step: WeightedStep, training: Pass, bare: Pass) -> MicroBatches:
    """The backward passes of a step."""
    whole = MicroBatches(step, batches, counts_of, bare)
    step.total(whole.open(training)).backward()  # type: ignore[no-untyped-call]
    for batch in batches[1:]:
        step.total(training(batch)).backward()  # type: ignore[no-untyped-call]
    return whole


def trained(name: str, pieces: int, passes: list[str]) -> Tensor:
    """The parameters of a run that notes its passes."""
    net = model()
    step, optimizer = stepped(net, name), torch.optim.SGD(net.parameters(), lr=LR)

    def noted(kind: str) -> Pass:
        return lambda batch: passes.append(kind) or sums_of(net, batch)  # type: ignore[func-returns-value]

    for batch in training_batches():
        optimizer.zero_grad()
        whole = train_on(parts_of(batch, pieces), step, noted("training"), noted("bare"))
        optimizer.step()
        step.close(losses_after=whole.mean_losses)
    return flat(net)


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("name", METHODS)
def test_they_train_as_the_whole_batch_by_hand(name: str, pieces: int) -> None:
    torch.testing.assert_close(trained(name, pieces, []), by_hand(name).parameters, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "beside", "at_the_start"),
    [
        ("famo", lambda pieces: pieces - 1 + pieces, 0),  # all but the first before the step, all of them after it
        ("gls", lambda pieces: pieces - 1, 0),
        ("db_mtl", lambda pieces: pieces, 0),
        ("uncertainty", lambda pieces: 0, lambda pieces: pieces - 1),  # the first step shows every method its losses
    ],
)
def test_no_pass_is_made_that_the_method_does_not_ask_for(
    name: str, beside: Callable[[int], int], at_the_start: Callable[[int], int] | int, pieces: int
) -> None:
    passes: list[str] = []
    trained(name, pieces, passes)
    steps = len(training_batches())
    more = at_the_start(pieces) if callable(at_the_start) else at_the_start
    assert passes.count("training") == steps * pieces
    assert passes.count("bare") == steps * beside(pieces) + more


def test_the_losses_that_weights_follow_from_are_those_of_the_training_pass() -> None:
    """With dropout, a pass of its own would have others."""
    torch.manual_seed(0)
    net = nn.Sequential(*model(), nn.Dropout(0.5))
    step = stepped(net, "gls")
    batches, sums = parts_of(training_batches()[0], 3), []
    seen: list[Tensor | None] = []
    weights_of = step.weighter.weights
    step.weighter.weights = lambda now: seen.append(now.losses) or weights_of(now)  # type: ignore[method-assign, func-returns-value]

    def training(batch: Batch) -> Tensor:
        sums.append(sums_of(net, batch))
        return sums[-1]

    train_on(batches, step, training, lambda batch: sums_of(net, batch))
    (losses,) = seen
    assert losses is not None
    expected = torch.stack(sums).sum(0).detach() / step.counts.clamp(min=1)  # type: ignore[union-attr]
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    assert len({round(float(each.detach().sum()), 9) for each in sums}) == 3


def test_the_micro_batches_are_let_go_where_nobody_looks_at_them_again() -> None:
    net = model()
    for name, kept in {"famo": 2, "dwa": 0}.items():
        whole = train_on(
            parts_of(training_batches()[0], 2), stepped(net, name), partial(sums_of, net), partial(sums_of, net)
        )
        assert len(whole.batches) == kept
