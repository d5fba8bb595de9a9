"""Losses are those of each example alone, however rows, parts and micro-batches lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_parts import (
    SIZES,
    adapted,
    assert_same,
    exact,
    gradients,
    loop_of,
    plainly,
)
from tiny_models import TRAINING, problem, training
from torch import Tensor

from benchmarks.contract import Batch
from benchmarks.harness.checkpoint import trained_state
from benchmarks.harness.loop import Loop
from benchmarks.problems.finetune import losses
from benchmarks.problems.finetune.adapt import Adapted
from benchmarks.problems.finetune.examples import Example
from benchmarks.problems.finetune_lm import FinetuneLM

pytestmark = pytest.mark.usefixtures("model_cache")


def examples_of(found: FinetuneLM, batch: Batch, task: str) -> list[Example]:
    """Those of a batch, found by their tokens, whatever way they lie in rows."""
    stream = [row.tolist() for row in batch["tokens"]]
    own = found._examples["train"][found.all_tasks.index(task)]
    return [e for e in own if any(_within(e.ids.tolist(), row) for row in stream)]


def _within(part: Sequence[int], whole: Sequence[int]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_losses_are_those_of_each_example_alone(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, packed: bool, attention: str
) -> None:
    model = request.getfixturevalue(kind)
    found = problem(tmp_path, SIZES, model=model, adapt="full", packed=packed, attn_implementation=attention)
    batch = found.data(0, TRAINING).train_batch(3)
    own = exact(adapted(found))
    if packed:
        assert len(batch["tokens"]) < 6 and int(batch["segment"].max()) > 1
    expected, counts = [], []
    for task in found.tasks:
        parts = [plainly(own, example) for example in examples_of(found, batch, task)]
        assert len(parts) == 2
        expected.append(sum((nats for nats, _ in parts), torch.zeros((), dtype=torch.float64)) / sum(n for _, n in parts))
        counts.append(sum(number for _, number in parts))
    ours = found.losses(own, batch)
    torch.testing.assert_close(ours, torch.stack(expected), rtol=1e-9, atol=1e-12)
    assert found.counts(batch).tolist() == counts
    # The eager attention of Llama rounds its softmax to float32.
    rtol = 1e-9 if attention == "sdpa" else 1e-4
    assert_same(gradients(own, ours), gradients(own, torch.stack(expected)), rtol)


def test_large_vocabularies_in_parts_are_exact(tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = problem(tmp_path, SIZES, model=llama, adapt="full")
    batch = found.data(0, TRAINING).train_batch(0)
    own = exact(adapted(found))
    whole = found.losses(own, batch)
    widest = []
    head = losses._cross_entropy

    def noting(model: Adapted, before: Tensor, tokens: Tensor) -> Tensor:
        widest.append(len(tokens))
        return head(model, before, tokens)

    monkeypatch.setattr(losses, "_cross_entropy", noting)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 5 * 300)
    parts = found.losses(own, batch)
    assert max(widest) <= 5 * 300 // own.causal.config.vocab_size < int(found.counts(batch).sum())  # type: ignore[union-attr, operator]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    assert_same(gradients(own, parts), gradients(own, whole))


def test_the_output_embedding_sees_learned_positions_alone(tmp_path: Path, llama: str) -> None:
    found = problem(tmp_path, SIZES, model=llama)
    batch = found.data(0, TRAINING).train_batch(0)
    own, seen = adapted(found), list[int]()
    own.head.register_forward_hook(lambda module, given, out: seen.append(out.numel() // out.shape[-1]))
    found.losses(own, batch)
    assert seen == [int(found.counts(batch).sum())] and seen[0] < batch["tokens"].numel()


@pytest.mark.parametrize("packed", [False, True])
def test_micro_batches_make_the_same_step(tmp_path: Path, llama: str, packed: bool) -> None:
    found = problem(tmp_path, SIZES, model=llama, packed=packed, max_length=64)
    settings = training(batch_size=6, steps=3, optimizer="sgd", lr=0.1, selection="last")
    states = []
    for parts in (1, 3):
        loop = loop_of(found, settings.model_copy(update={"accumulate": parts}), "token_mean")
        loop.run()
        states.append(trained_state(loop.model))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6)


# ---- gradients of all tasks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("packed", "parts"), [(False, 1), (False, 2), (True, 1)])
def test_the_update_of_all_gradients_is_that_of_the_total(
    tmp_path: Path, llama: str, cached: bool, dropout: float, packed: bool, parts: int
) -> None:
    """With adapters, micro-batches and draws of numbers, whichever passes the gradients are taken by."""
    adapt = {"lora": {"rank": 2, "layers": 1, "dropout": dropout}}
    options: dict[str, Any] = {"model": llama, "adapt": adapt, "cache_frozen": cached, "packed": packed}
    settings = TRAINING.model_copy(update={"accumulate": parts, "optimizer": "sgd", "grad_clip": 0.5})
    moved = []
    for method in ("uniform", "pcgrad"):
        loop = loop_of(problem(tmp_path, SIZES, **options), settings, method)
        exact_loop(loop)
        loop.begin()
        # The sum of all gradients, where the rule is not asked.
        loop.weighter.weights = lambda now: torch.full((3,), 1 / 3, dtype=torch.float64)  # type: ignore[method-assign]
        used = loop.stepper.task_gradients
        assert used is None or used.way == ("own_rows" if not packed and not dropout else "a_pass_each")
        for _ in range(2):
            loop.train_step()
        moved.append([value.detach().clone() for value in loop.model.parameters() if value.requires_grad])
    # Llama's norms are taken in float32, whatever the dtype of the model.
    assert_same(moved[0], moved[1], 1e-6)


def exact_loop(loop: Loop) -> None:
    assert isinstance(loop.model, Adapted)
    exact(loop.model)


def test_rows_of_a_task_end_with_its_last_learned_token(tmp_path: Path, llama: str) -> None:
    found = problem(tmp_path, SIZES, model=llama, adapt="full")
    batch = found.data(0, TRAINING).train_batch(0)
    parts = found.task_rows(batch)
    assert parts is not None
    assert sum(len(part["tokens"]) for part in parts) == len(batch["tokens"])
    for place, part in enumerate(parts):
        learned = part["task"] == place
        assert bool(learned.any(1).all()) and bool(learned[:, -1].any())
