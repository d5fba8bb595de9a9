"""Accelerate with task weights against training by hand: accumulation, ranks, clipping, saved states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import by_hand as small
import pytest
import torch
from by_hand import METHODS, STEPS, TASKS, Result, assert_equal
from ranks import RANKS, free_port, on_ranks

from weighting import ValidationFeed

pytest.importorskip("accelerate")
from accelerate import Accelerator

from weighting.integrations.accelerate import AcceleratedStep, accelerated_step

pytestmark = pytest.mark.slow


def run(name: str, pieces: int, rank: int = 0, ranks: int = 1, folder: Path | None = None, stop: int = STEPS) -> Result:
    """Trains up to ``stop``; with a folder, goes on from what is saved there and saves at the end."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=pieces)
    bare = small.model()
    shared = [bare[2].weight]
    model, optimizer = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=small.LR))
    rows = small.validation_rows()
    feed = ValidationFeed(range(13), lambda chosen: rows[chosen], batch_size=6, rank=rank, ranks=ranks)
    step = accelerated_step(
        accelerator,
        small.method(name),
        TASKS,
        validation=feed,
        measure=small.measure(bare),
        model=bare,
        shared=shared,
        check_every=1,
    )
    if folder is not None and folder.exists():
        accelerator.load_state(str(folder))
    batches = [parts(whole, pieces, rank, ranks) for whole in small.training_batches()[step.steps : stop]]
    losses, weights = train(accelerator, step, model, bare, optimizer, batches)
    if folder is not None:
        accelerator.save_state(str(folder))
    accelerator.free_memory()
    return Result(torch.tensor(losses, dtype=torch.float64), torch.stack(weights), small.flat(bare))


def train(
    accelerator: Any, step: AcceleratedStep, model: Any, bare: Any, optimizer: Any, batches: list[Any]
) -> tuple[list[Any], list[Any]]:
    losses, weights = [], []
    for group in step.groups(batch for each in batches for batch in each):
        counts = torch.stack([small.counts_of(part) for part in group]).sum(0)

        def means(group: Any = group, counts: Any = counts) -> Any:
            return torch.stack([small.sums_of(bare, part) for part in group]).sum(0) / counts.clamp(min=1)

        step.open(counts, means, lambda group=group: (small.sums_of(bare, part) for part in group))  # type: ignore[misc]
        for part in step.each(group, model):
            accelerator.backward(step.total(small.sums_of(model, part)))
        accelerator.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
        optimizer.zero_grad()
        step.close(skipped=accelerator.optimizer_step_was_skipped, losses_after=means)
        told = step.logs()
        losses.append([told[f"loss/{task}"] for task in TASKS])
        weights.append(step.weights)
    return losses, weights


def parts(whole: small.Batch, pieces: int, rank: int, ranks: int) -> list[small.Batch]:
    own = torch.arange(len(whole.task))[rank::ranks]
    return [whole[rows] for rows in own.tensor_split(pieces)]


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("name", METHODS)
def test_accumulation_trains_as_whole_batches_by_hand(name: str, pieces: int) -> None:
    assert_equal(run(name, pieces), small.by_hand(name))


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_state_goes_on_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    for stop in range(1, STEPS):
        run(name, 2, folder=tmp_path / str(stop), stop=stop)
        found = run(name, 2, folder=tmp_path / str(stop))
        torch.testing.assert_close(found.parameters, small.by_hand(name).parameters, rtol=1e-10, atol=1e-10)


def on_a_rank(rank: int) -> dict[str, Result]:
    return {name: run(name, 2, rank, RANKS) for name in METHODS}


def test_two_ranks_with_accumulation_train_as_whole_batches_by_hand(tmp_path: Path) -> None:
    for found in on_ranks(tmp_path, on_a_rank, port=free_port()):
        for name in METHODS:
            assert_equal(found[name], small.by_hand(name))
