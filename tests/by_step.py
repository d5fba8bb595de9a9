"""Training by the step object, for what by_hand trains without it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from by_hand import (
    LR,
    TASKS,
    Batch,
    Result,
    counts_of_parts,
    flat,
    last_weight,
    measure,
    method,
    model,
    overflow,
    sums_of,
    training_batches,
    validation_rows,
)
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
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
    counted = counts_of_parts(parts).clamp(min=1)
    return lambda: torch.stack([sums_of(trained, part) for part in parts]).sum(0) / counted


def one_step(
    step: WeightedStep,
    trained: nn.Sequential,
    forward: Any,
    optimizer: Any,
    parts: list[Batch],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """trained: the bare model; forward: the model, or what is wrapped around it; scaler: may skip the step."""
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    losses = local_means(trained, parts)
    step.open(counts_of_parts(parts), losses, lambda: (sums_of(trained, part) for part in parts))
    optimizer.zero_grad()
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if isinstance(forward, FSDPModule):
            forward.set_requires_gradient_sync(last)
        with forward.no_sync() if isinstance(forward, DistributedDataParallel) and not last else nullcontext():
            scaler.scale(step.total(sums_of(forward, part))).backward()  # type: ignore[no-untyped-call]
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    step.close(skipped=scaler.get_scale() < scale, losses_after=losses)


def run(
    name: str,
    pieces: int = 2,
    rank: int = 0,
    ranks: int = 1,
    *,
    skipped: int | None = None,
    wrapped: Callable[[nn.Sequential], Any] = lambda trained: trained,
) -> Result:
    """skipped: a step in which a gradient overflows; wrapped: what is put around the model, which may change it."""
    trained = model()
    forward = wrapped(trained)
    step = stepped(trained, name, rank, ranks)
    scaler = None
    if skipped is not None:
        scaler = overflow(trained[2].bias, lambda: step.steps == skipped and step.skipped == 0)
    optimizer = torch.optim.SGD(trained.parameters(), lr=LR)
    losses, weights = [], []
    for whole in training_batches():
        one_step(step, trained, forward, optimizer, parts_of(whole, pieces, rank, ranks), scaler)
        logged = step.logs()
        if logged:
            losses.append([logged[f"loss/{task}"] for task in TASKS])
            assert step.weights is not None
            weights.append(step.weights)
    return Result(torch.tensor(losses, dtype=torch.float64), torch.stack(weights), flat(whole_of(trained)))


def whole_of(trained: nn.Module) -> nn.Module:
    """The model, with the parameters of all ranks where they were sharded."""
    if not isinstance(trained, FSDPModule):
        return trained
    found = model()
    found.load_state_dict(get_model_state_dict(trained, options=StateDictOptions(full_state_dict=True)))
    return found


def resumed(name: str, folder: Path, stop: int) -> Tensor:
    """The parameters of a run that was stopped and went on with what it had saved."""
    folder.mkdir(exist_ok=True)
    kept = folder / "saved.pt"
    for batches in (training_batches()[:stop], training_batches()[stop:]):
        trained = model()
        step, optimizer = stepped(trained, name), torch.optim.SGD(trained.parameters(), lr=LR)
        if kept.exists():
            saved = torch.load(kept, weights_only=True)
            trained.load_state_dict(saved["model"])
            step.load_state_dict(saved["step"])
        for whole in batches:
            one_step(step, trained, trained, optimizer, parts_of(whole, 2))
        torch.save({"model": trained.state_dict(), "step": step.state_dict()}, kept)
    return flat(trained)


def shown_to(weighter: Any) -> list[Any]:
    """What the method is shown from now on."""
    shown: list[Any] = []
    update = weighter.update

    def remember(seen: Any) -> None:
        shown.append(seen)
        update(seen)

    weighter.update = remember
    return shown
