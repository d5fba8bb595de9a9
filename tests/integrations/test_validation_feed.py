"""The validation feed: balanced, wrapping, shared among ranks, in evaluation mode."""

from __future__ import annotations

import pytest
import torch
from by_hand import (
    LR,
    TASKS,
    K,
    evaluation,
    means,
    measure,
    model,
    training_batches,
    validation_rows,
)
from by_step import feed, one_step, parts_of, shown_to, stepped
from torch import nn

import weighting
from weighting import ValidationFeed, WeightedStep


def test_a_balanced_feed_gives_each_task_equally_many_and_wraps() -> None:
    tasks = [0, 0, 0, 1, 1, 1, 1, 1]
    found = ValidationFeed(range(8), list, batch_size=4, tasks=tasks)
    seen = []
    for _ in range(3):
        assert found.take() == found.take()
        seen.append(found.take()[0])
        found.advance()
    assert seen == [[0, 1, 3, 4], [2, 0, 5, 6], [1, 2, 7, 3]]
    assert list(found.everything()) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("tasks", [None, [0, 1] * 5 + [1]])
def test_ranks_share_each_mini_batch_without_repeats(tasks: list[int] | None) -> None:
    whole = ValidationFeed(range(11), list, batch_size=4, tasks=tasks, batches=2)
    ranks = [ValidationFeed(range(11), list, batch_size=4, tasks=tasks, batches=2, rank=r, ranks=3) for r in range(3)]
    for _ in range(5):
        expected = [row for each in whole.take() for row in each]
        shared = [row for rank in ranks for each in rank.take() for row in each]
        assert sorted(shared) == sorted(expected)
        for each in (whole, *ranks):
            each.advance()
    assert sorted(row for rank in ranks for each in rank.everything() for row in each) == list(range(11))


def test_validation_passes_are_made_in_evaluation_mode_and_leave_the_mode() -> None:
    trained = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 1)).double()
    modes: list[bool] = []
    trained[1].register_forward_hook(lambda layer, *_: modes.append(layer.training))
    step, optimizer = stepped(trained, "coba"), torch.optim.SGD(trained.parameters(), lr=LR)
    one_step(step, trained, trained, optimizer, parts_of(training_batches()[0], 1))
    assert set(modes) == {True, False}
    assert trained[1].training


def test_wrong_sizes_of_a_feed_are_one_line() -> None:
    with pytest.raises(ValueError, match="expected batch_size as a multiple of 2 tasks, found 3"):
        ValidationFeed(range(4), list, batch_size=3, tasks=[0, 1, 0, 1])
    with pytest.raises(ValueError, match="expected validation examples, found none"):
        ValidationFeed([], list, batch_size=3)


def test_losses_of_validation_feed_methods_made_for_training_losses() -> None:
    trained = model()
    weighter = weighting.create("famo", K, lr=0.2, losses_from="validation")
    step = WeightedStep(weighter, TASKS, validation=feed(), measure=measure(trained), model=trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=LR)
    shown = shown_to(weighter)
    for number, whole in enumerate(training_batches()):
        rows = validation_rows()[[(number * 6 + place) % 13 for place in range(6)]]
        with evaluation(trained):
            before = means(trained, rows)
        one_step(step, trained, trained, optimizer, parts_of(whole, 2))
        torch.testing.assert_close(shown[-1].val_losses_before, before)
        with evaluation(trained):
            torch.testing.assert_close(shown[-1].val_losses, means(trained, rows))
