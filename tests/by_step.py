"""Training by the step object, for what by_hand trains without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from by_hand import (
    TASKS,
    Batch,
    counts_of,
    last_weight,
    measure,
    method,
    sums_of,
    validation_rows,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from weighting import ValidationFeed, WeightedStep


def feed(rank: int = 0, ranks: int = 1, **settings: Any) -> ValidationFeed:
    rows = validation_rows()
    return ValidationFeed(
        range(len(rows.task)), lambda chosen: rows[chosen], **{"batch_size": 6, "rank": rank, "ranks": ranks, **settings}
    )


def parts_of(whole: Batch, pieces: int, rank: int = 0, ranks: int = 1) -> list[Batch]:
    """This rank's micro-batches, of unequal size where the rows do not divide."""
    own = torch.arange(len(whole.task))[rank::ranks]
    return [whole[rows] for rows in own.tensor_split(pieces)]


def stepped(trained: nn.Sequential, name: str, rank: int = 0, ranks: int = 1, **settings: Any) -> WeightedStep:
    return WeightedStep(
        method(name),
        TASKS,
        ranks_averaged=ranks,
        validation=feed(rank, ranks),
        measure=measure(trained),
        model=trained,
        shared=[last_weight(trained)],
        check_every=1,
        **settings,
    )


def local_means(trained: nn.Module, parts: list[Batch]) -> Callable[[], Tensor]:
    counted = torch.stack([counts_of(part) for part in parts]).sum(0).clamp(min=1)
    return lambda: torch.stack([sums_of(trained, part) for part in parts]).sum(0) / counted


def one_step(step: WeightedStep, trained: nn.Sequential, forward: nn.Module, optimizer: Any, parts: list[Batch]) -> None:
    losses = local_means(trained, parts)
    counts = torch.stack([counts_of(part) for part in parts]).sum(0)
    step.open(counts, losses, lambda: (sums_of(trained, part) for part in parts))
    optimizer.zero_grad()
    for place, part in enumerate(parts):
        if isinstance(forward, DistributedDataParallel) and place < len(parts) - 1:
            with forward.no_sync():
                step.total(sums_of(forward, part)).backward()  # type: ignore[no-untyped-call]
        else:
            step.total(sums_of(forward, part)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    step.close(losses_after=losses)


def shown_to(weighter: Any) -> list[Any]:
    """What the method is shown from now on."""
    shown: list[Any] = []
    update = weighter.update

    def remember(seen: Any) -> None:
        shown.append(seen)
        update(seen)

    weighter.update = remember
    return shown
