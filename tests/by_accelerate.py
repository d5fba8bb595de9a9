"""Training by a loop with Accelerate, for what by_hand trains without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import by_hand as small
import torch
from accelerate import Accelerator
from by_hand import STEPS, TASKS, Result
from by_step import feed, local_means, parts_of
from torch import Tensor

from weighting.integrations.accelerate import AcceleratedStep, accelerated_step


def run(
    name: str,
    pieces: int = 2,
    rank: int = 0,
    ranks: int = 1,
    *,
    folder: Path | None = None,
    stop: int = STEPS,
    skipped: int | None = None,
) -> Result:
    """Trains up to ``stop``; with a folder, goes on from what is saved there and saves at the end.

    skipped: the step in which a gradient overflows
    """
    accelerator, bare = Accelerator(cpu=True, gradient_accumulation_steps=pieces), small.model()
    if skipped is not None:
        given: Any = accelerator
        given.scaler = small.overflow(bare[2].bias, lambda: step.steps == skipped and step.skipped == 0)
    model, optimizer = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=small.LR))
    step = accelerated_step(
        accelerator,
        small.method(name),
        TASKS,
        validation=feed(rank, ranks),
        measure=small.measure(bare),
        model=bare,
        shared=[small.last_weight(bare)],
        check_every=1,
    )
    if folder is not None and folder.exists():
        accelerator.load_state(str(folder))
    batches = [parts_of(whole, pieces, rank, ranks) for whole in small.training_batches()[step.steps : stop]]
    losses, weights = _trained(accelerator, step, model, bare, optimizer, batches)
    if folder is not None:
        accelerator.save_state(str(folder))
    accelerator.free_memory()
    return Result(torch.tensor(losses, dtype=torch.float64), torch.stack(weights), small.flat(bare))


def resumed(name: str, folder: Path, stop: int) -> Tensor:
    """The parameters of a run that was stopped and went on."""
    run(name, folder=folder, stop=stop)
    return run(name, folder=folder).parameters


def _trained(
    accelerator: Any, step: AcceleratedStep, model: Any, bare: Any, optimizer: Any, batches: list[Any]
) -> tuple[list[Any], list[Any]]:
    losses, weights = [], []
    for group in step.groups(batch for each in batches for batch in each):
        means = local_means(bare, group)
        step.open(
            small.counts_of_parts(group),
            means,
            lambda group=group: (small.sums_of(bare, part) for part in group),  # type: ignore[misc]
        )
        for part in step.each(group, model):
            accelerator.backward(step.total(small.sums_of(model, part)))
        if accelerator.scaler is None:
            accelerator.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
        optimizer.zero_grad()
        step.close(skipped=accelerator.optimizer_step_was_skipped, losses_after=means)
        told = step.logs()
        if told:
            losses.append([told[f"loss/{task}"] for task in TASKS])
            weights.append(step.weights)
    return losses, weights
