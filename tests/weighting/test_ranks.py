"""Two ranks with batches of their own: after one all-reduce of sums and counts every method's weights are those of one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from ranks import RANKS, on_ranks
from scripts import SUBJECTS
from torch import Tensor

from weighting import Observation, TaskLosses
from weighting.testing.settings import Subject
from weighting.testing.synthetic import Script, run, script

pytestmark = pytest.mark.slow

TASKS, STEPS = 3, 50
OTHERS = [subject for subject in SUBJECTS if subject.make(TASKS).batch_shape == ()]


def units(seed: int) -> Tensor:
    """``(STEPS + 1, RANKS, 2, TASKS)`` units of each micro-batch: some of none, at times on all ranks."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.randint(0, 6, (STEPS + 1, RANKS, 2, TASKS), generator=draw)
    return torch.where(torch.rand(found.shape, generator=draw) < 0.3, 0, found)


def parts(seed: int) -> list[dict[str, Tensor]]:
    """By step, the sums of each rank's micro-batches: every unit's loss is near that of its task in a made-up run."""
    shown = script(TASKS, STEPS, seed=seed)
    draw, counts = torch.Generator().manual_seed(seed), units(seed)
    found = []
    for step, seen in enumerate([shown.first, *shown.steps]):
        sums = {"counts": counts[step]}
        for name in ("losses", "val_losses", "val_losses_before", "losses_after"):
            noise = torch.rand(counts[step].shape, generator=draw, dtype=torch.float64)
            sums[name] = getattr(seen, name) * (0.5 + noise) * counts[step]
        found.append(sums)
    return found


def observed(sums: dict[str, Tensor], seen: Observation, ranks: slice) -> Observation:
    """What the given ranks show together, and, where they run, all others with them."""
    means = {}
    for name in ("losses", "val_losses", "val_losses_before", "losses_after"):
        step = TaskLosses(TASKS)
        for rank in range(*ranks.indices(RANKS)):
            for batch in range(2):
                step.add(sums[name][rank, batch], sums["counts"][rank, batch])
        means[name] = step.observation()
    losses = {name: each.losses for name, each in means.items()}
    counts = means["losses"].counts
    gradients = {name: getattr(seen, name) for name in ("grad_norms", "gramian", "cross_gramian")}
    return Observation(**losses, counts=counts, val_counts=counts, **gradients)


def shown_to(ranks: slice) -> Script:
    """What a method is shown that sees the batches of these ranks."""
    shown = script(TASKS, STEPS, seed=1)
    rows = [observed(sums, seen, ranks) for sums, seen in zip(parts(1), [shown.first, *shown.steps], strict=True)]
    return Script(rows[0], rows[1:])


def weights_of(subjects: Iterable[Subject], shown: Script) -> dict[str, Tensor]:
    """By the methods' labels."""
    return {subject.label: run(subject.make(TASKS), shown) for subject in subjects}


def on_a_rank(rank: int) -> dict[str, Tensor]:
    return weights_of(OTHERS, shown_to(slice(rank, rank + 1)))


def test_ranks_have_the_weights_of_the_whole_batch(tmp_path: Path) -> None:
    """All methods in one test, as starting the ranks takes longer than all that they do."""
    first, second = on_ranks(tmp_path, on_a_rank)
    others = [subject.label for subject in OTHERS if not torch.equal(first[subject.label], second[subject.label])]
    assert others == []
    whole = weights_of(OTHERS, shown_to(slice(0, RANKS)))
    away = [label for label, weights in whole.items() if not torch.allclose(first[label], weights, rtol=1e-9, atol=1e-12)]
    assert away == []


def test_without_the_reduction_the_ranks_part() -> None:
    """The batches differ enough to tell."""
    labels = ("gradnorm()", "dwa()", "coba()")
    some = [subject for subject in OTHERS if subject.label in labels]
    one, other = (weights_of(some, shown_to(slice(rank, rank + 1))) for rank in range(RANKS))
    for label in labels:
        assert (one[label] - other[label]).abs().max() > 0.01, label
