"""Nats of the learned tokens: the output embedding is applied where one is predicted, in parts where it is large."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks.contract import Batch
from benchmarks.problems.finetune.adapt import Adapted

LOGITS_AT_ONCE = 2**25
"""Numbers of logits that are held at a time: 128 MB in float32."""


def nats_of(model: Adapted, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy ``(N,)`` of each learned token, with graph, at least float32; and its task ``(N,)``."""
    task = batch["task"][:, 1:]
    predicted = task >= 0
    before = model(batch)[:, :-1][predicted]
    return _nats(model, before, batch["tokens"][:, 1:][predicted]), task[predicted]


def _nats(model: Adapted, before: Tensor, tokens: Tensor) -> Tensor:
    config: Any = model.causal.config
    rows = max(1, LOGITS_AT_ONCE // int(config.vocab_size))
    if len(tokens) <= rows:
        return _cross_entropy(model, before, tokens)
    parts = zip(torch.split(before, rows), torch.split(tokens, rows), strict=True)
    # The logits of a part are made again in the backward pass, so that those of one part are held at a time.
    return torch.cat([checkpoint(_cross_entropy, model, *part, use_reentrant=False) for part in parts])


def _cross_entropy(model: Adapted, before: Tensor, tokens: Tensor) -> Tensor:
    with model.arithmetic(before.device):
        logits = model.head(before)
    return functional.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), tokens, reduction="none")


def sums(values: Tensor, task: Tensor, num_tasks: int) -> Tensor:
    """``(K,)`` sums of the values of each task; those of a task below 0 are in none."""
    kept = task >= 0
    return values.new_zeros(num_tasks).index_add(0, task[kept], values[kept])
