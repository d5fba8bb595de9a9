"""What the adapters are measured on: a small Llama, and rows of one task each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TASKS = ("a", "b", "c", "d")
VOCABULARY, TOKENS, ROWS = 512, 128, 8
"""ROWS in a micro-batch."""


def make_model() -> Any:
    """A Llama of a million parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=0, eos_token_id=1, **sizes))


def rows(count: int) -> list[dict[str, Any]]:
    """Examples, the tasks in turn."""
    draw = torch.Generator().manual_seed(count)
    ids = torch.randint(2, VOCABULARY, (count, TOKENS), generator=draw).tolist()
    return [{"input_ids": own, "labels": own, "task": TASKS[row % len(TASKS)]} for row, own in enumerate(ids)]


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch with the tasks' numbers."""
    ids = torch.tensor([each["input_ids"] for each in examples])
    return {"input_ids": ids, "labels": ids, "task": torch.tensor([TASKS.index(each["task"]) for each in examples])}


def steps_of(steps: int, accumulation: int) -> Iterator[list[dict[str, Tensor]]]:
    """The micro-batches of each step of a training."""
    found = micro_batches(steps * accumulation)
    for start in range(0, len(found), accumulation):
        yield found[start : start + accumulation]


def micro_batches(count: int) -> list[dict[str, Tensor]]:
    """All of a training."""
    found = rows(count * ROWS)
    return [collate(found[start : start + ROWS]) for start in range(0, len(found), ROWS)]


def nats(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """``(rows,)`` summed over the tokens of each."""
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1].transpose(1, 2)
    return cross_entropy(logits, batch["labels"][:, 1:], reduction="none").sum(1)


def sums(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """``(K,)``."""
    return torch.zeros(len(TASKS)).index_add(0, batch["task"], nats(model, batch))


def counts(batch: Mapping[str, Tensor]) -> Tensor:
    """``(K,)``."""
    return torch.bincount(batch["task"], minlength=len(TASKS)) * (TOKENS - 1)


def measure(model: nn.Module) -> Any:
    """From a batch to its sums and counts."""
    return lambda batch: (sums(model, batch), counts(batch))


def mean(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """What a trainer without weights minimizes."""
    return nats(model, batch).sum() / (ROWS * (TOKENS - 1))
