"""A language model of a thousand parameters, rows of three tasks, and its training written by hand on whole batches."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from by_hand import METHODS, Result, by_mode, evaluation, gramian_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import weighting
from weighting import Needs, Observation

TASKS = ("code", "text", "speech")
K, VOCABULARY, LENGTH, LAYERS, STEPS, LR, WHOLE = len(TASKS), 17, 6, 2, 5, 0.3, 8
ROWS = STEPS * WHOLE - 1
"""The last batch is smaller than the others."""


def rows(count: int = ROWS, seed: int = 0) -> list[dict[str, Any]]:
    """Examples with a column ``task`` of names; the third step lacks the last task, and prompts are not predicted."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for row in range(count):
        ids = torch.randint(2, VOCABULARY, (LENGTH,), generator=draw)
        prompt = int(torch.randint(1, 4, (1,), generator=draw))
        labels = torch.cat([torch.full((prompt,), -100), ids[prompt:]])
        task = row % (2 if row // WHOLE == 2 else K)
        found.append({"input_ids": ids.tolist(), "labels": labels.tolist(), "task": TASKS[task]})
    return found


def validation_rows() -> list[dict[str, Any]]:
    return rows(12, seed=1)


def model(dropout: float = 0.0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_dropout=dropout,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(3)
    made: Any = LlamaForCausalLM(config)
    _without_single_precision(made)
    for parameter in made.parameters():
        parameter.data *= 2
    made.model.norm.register_forward_hook(by_mode)
    return made.double()


def _without_single_precision(made: nn.Module) -> None:
    """Llama's own norm computes in float32 whatever it is given, which no equality in float64 comes through."""
    for name, module in list(made.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            made.set_submodule(name, nn.RMSNorm(module.weight.shape, eps=1e-6))


def adapted() -> Any:
    """The model with LoRA, whose adapters have dropout."""
    from peft import LoraConfig, get_peft_model

    made = model()
    settings: Any = LoraConfig(r=2, lora_dropout=0.3, target_modules="all-linear", init_lora_weights="gaussian")
    return get_peft_model(made, settings).double()


def shared(trained: Any) -> list[Tensor]:
    """What is trained of the last layer's last matrix."""
    last = f"layers.{LAYERS - 1}.mlp.down_proj."
    return [each for name, each in trained.named_parameters() if last in name and each.requires_grad]


def method(name: str) -> weighting.Weighter:
    return weighting.create(name, K, **METHODS[name])


def flat(trained: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])


def means(trained: Any, batch: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """``(K,)`` mean nats of each task's predicted tokens, and how many they are."""
    ids = torch.tensor([row["input_ids"] for row in batch])
    labels = torch.tensor([row["labels"] for row in batch])[:, 1:]
    logits = trained(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1]
    losses, counts = [], []
    for task in TASKS:
        own = torch.tensor([row["task"] == task for row in batch])[:, None] & (labels != -100)
        counts.append(own.sum())
        losses.append(cross_entropy(logits[own], labels[own], reduction="sum") / own.sum().clamp(min=1))
    return torch.stack(losses), torch.stack(counts)


def validation_places(step: int, size: int = 9) -> list[int]:
    """Balanced: row r of the validation rows is of task r modulo K."""
    each = size // K
    per_task = [[row for row in range(12) if row % K == task] for task in range(K)]
    return [own[(step * each + place) % len(own)] for own in per_task for place in range(each)]


@cache
def by_hand(name: str, skipped: int | None = None) -> Result:
    """Plain PyTorch on whole batches, trained once for all that ask. skipped: a step that is not made."""
    trained, weighter, data, validation = model(), method(name), rows(), validation_rows()
    optimizer = torch.optim.SGD(trained.parameters(), lr=LR)
    losses_of, weights_of = [], []
    shown_batches = 0
    for step in range(STEPS):
        batch = data[step * WHOLE : (step + 1) * WHOLE]
        losses, counts = means(trained, batch)
        now = Observation(losses=losses, counts=counts)
        if step == 0:
            with evaluation(trained):
                first = means(trained, validation)
            weighter.start(now.replace(val_losses=first[0], val_counts=first[1]))
        wanted = weighter.wants()
        if Needs.GRAMIAN in wanted:
            now = now.replace(gramian=gramian_of(losses, shared(trained)))
        weights = weighter.weights(now)
        if Needs.GRAD_NORMS in wanted:
            found = [torch.autograd.grad(loss, shared(trained), retain_graph=True)[0].norm() for loss in losses]
            now = now.replace(grad_norms=torch.stack(found))
        if step == skipped:
            continue
        losses_of.append(torch.where(counts > 0, losses.detach(), torch.nan))
        weights_of.append(torch.where(counts > 0, weights, torch.nan))
        optimizer.zero_grad()
        (weights * losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if Needs.LOSSES_AFTER_STEP in wanted:
            with torch.no_grad():
                now = now.replace(losses_after=means(trained, batch)[0])
        if Needs.VAL_LOSSES in wanted:
            with evaluation(trained):
                shown = means(trained, [validation[place] for place in validation_places(shown_batches)])
            shown_batches += 1
            now = now.replace(val_losses=shown[0], val_counts=shown[1])
        weighter.update(now)
    return Result(torch.stack(losses_of), torch.stack(weights_of), flat(trained))
