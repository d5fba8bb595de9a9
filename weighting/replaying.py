"""Showing a log of observations to a method, as a training loop would show it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weighting.contract import Weighter
from weighting.observation import COUNTS_OF, FIELD_OF, Field, Needs, Observation


def replay(weighter: Weighter, log: Sequence[Observation]) -> Tensor:
    """Show a whole log to a method and return its weights in each step, ``(T, *batch_shape, K)``.

    weighter  a new method, or one after ``reset``
    log       what there was to see at the start, then in each of T >= 1 steps; the method is shown what it asks for

    Raises ValueError where the log is empty or lacks what the method reads.

    >>> from weighting import Observation, create, replay
    >>> log = [Observation(losses=[4.0, 4.0]), Observation(losses=[4.0, 4.0]), Observation(losses=[1.0, 4.0])]
    >>> replay(create("lbtw", 2), log).tolist()
    [[1.0, 1.0], [0.5, 1.0]]
    """
    if len(log) < 2:
        raise ValueError(f"{weighter.name}: expected a log of the start and at least one step, found {len(log)}")
    weighter.start(at_start(weighter, log[0]))
    return go_on(weighter, log[1:])


def go_on(weighter: Weighter, steps: Sequence[Observation]) -> Tensor:
    """Show further steps to a method that was started. Returns as ``replay``."""
    weights = []
    for step in steps:
        weights.append(weighter.weights(before_step(weighter, step)))
        weighter.update(after_step(weighter, step))
    return torch.stack(weights)


def at_start(weighter: Weighter, seen: Observation) -> Observation:
    """What a method is shown at the start: losses, and validation losses if it needs them."""
    fields: list[Field] = ["losses", "val_losses"] if Needs.VAL_LOSSES in weighter.needs else ["losses"]
    return _only(seen, fields)


def before_step(weighter: Weighter, seen: Observation) -> Observation:
    """What a method is shown when it answers with weights."""
    fields: list[Field] = ["losses", "gramian"] if Needs.GRAMIAN in weighter.wants() else ["losses"]
    return _only(seen, fields)


def after_step(weighter: Weighter, seen: Observation) -> Observation:
    """What a method is shown when it learns: losses, and what it wants."""
    wanted = weighter.wants()
    return _only(seen, ["losses", *(field for need, field in FIELD_OF.items() if need in wanted)])


def _only(seen: Observation, fields: Sequence[Field]) -> Observation:
    """Some fields, with their counts."""
    names = [*fields, *(counts for field in fields for counts in COUNTS_OF[field])]
    return Observation(**{name: getattr(seen, name) for name in names})
