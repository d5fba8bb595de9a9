"""The code completion problem: batches, losses, metrics, options."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from torch import nn
from torch.nn import functional

from benchmarks.contract import Split
from benchmarks.problems.code_lm import CodeData, CodeLM
from benchmarks.problems.text import corpus, sources
from benchmarks.problems.text.cache import cached
from benchmarks.problems.text.documents import SPLITS

pytestmark = pytest.mark.usefixtures("own_cache")

MBXP = ROOT / "tests" / "data" / "mbxp"
CAPS = {"python": 60_000, "cpp": 60_000, "cuda": 40_000, "stubs": 30_000, "yaml": 12_000, "english": 12_000}
SMALL: dict[str, Any] = {
    "train_bytes": CAPS,
    "vocab_size": 400,
    "hidden_size": 16,
    "num_heads": 2,
    "num_layers": 1,
    "intermediate_size": 24,
    "sequence_length": 16,
    "validation_sequences": 5,
    "test_sequences": 7,
}
TRAINING = CodeLM.training.model_copy(update={"batch_size": 3})
DEFAULT_TASKS = ("python", "cpp", "cuda", "stubs", "yaml")
LOOK = """
import json, sys
from benchmarks.problems.code_lm import CodeLM
problem = CodeLM(**json.loads(sys.argv[1]))
data = problem.data(3, CodeLM.training.model_copy(update={"batch_size": 3}))
model = problem.model(3)
print(json.dumps([data.fingerprint, data.train_batch(11)["tokens"].tolist(), problem.facts()["tokenizer"]["sha256"],
                  sum(float(p.detach().double().abs().sum()) for p in model.parameters())]))
"""


@pytest.fixture(scope="module")
def problem() -> CodeLM:
    return CodeLM(**SMALL)


@pytest.fixture(scope="module")
def data(problem: CodeLM) -> CodeData:
    return problem.data(3, TRAINING)


@pytest.fixture(scope="module")
def model(problem: CodeLM) -> nn.Module:
    return problem.model(3)


def write_folder(root: Path, words: str, number: int = 60) -> Path:
    for place in range(number):
        path = root / f"part{place % 3}" / f"{place}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{words} number {place}\n" * 20)
    return root


# ---- data ------------------------------------------------------------------------------------------------------------


def test_batches_have_the_same_number_of_sequences_of_each_task(problem: CodeLM, data: CodeData) -> None:
    assert problem.tasks == DEFAULT_TASKS
    batch = data.train_batch(7)
    assert batch["tokens"].shape == (5, 3, 17)
    assert batch["tokens"].dtype == torch.int64
    assert batch["valid"].all()
    assert all(torch.equal(batch[name], data.train_batch(7)[name]) for name in batch)
    assert not torch.equal(batch["tokens"], data.train_batch(8)["tokens"])
    assert data.validation_batch(1)["tokens"].shape == (5, 3, 17)
    assert data.num_validation_batches == 2


def test_an_epoch_is_a_permutation(data: CodeData) -> None:
    part = data.parts["train"][4]
    count = len(part.tokens)
    drawn = torch.cat([data.train_batch(step)["tokens"][4] for step in range(-(-2 * count // 3))])
    known = {tuple(row) for row in part.tokens.tolist()}
    first, second = (list(map(tuple, part.tolist())) for part in (drawn[:count], drawn[count : 2 * count]))
    assert sorted(first) == sorted(second) == sorted(map(tuple, part.tokens.tolist()))
    assert first != second
    assert set(first) == known


def test_steps_per_epoch_are_those_of_the_largest_task(data: CodeData) -> None:
    assert data.steps_per_epoch == math.ceil(max(len(part.tokens) for part in data.parts["train"]) / 3)


def test_sequences_cover_the_stream_without_gaps(data: CodeData) -> None:
    tokens = data.parts["train"][0].tokens
    assert torch.equal(tokens[:-1, -1], tokens[1:, 0])


@pytest.mark.parametrize("task", ["cuda", "english"])
def test_one_task_alone_sees_the_same(problem: CodeLM, data: CodeData, model: nn.Module, task: str) -> None:
    every = CodeLM(**SMALL, tasks=[*DEFAULT_TASKS, "english"])
    alone = CodeLM(**SMALL, tasks=[task])
    many, one = every.data(3, TRAINING), alone.data(3, TRAINING)
    place = every.tasks.index(task)
    assert one.fingerprint == many.fingerprint == data.fingerprint
    for step in (0, 5, 900):
        assert torch.equal(one.train_batch(step)["tokens"][0], many.train_batch(step)["tokens"][place])
    assert torch.equal(one.validation_batch(1)["tokens"][0], many.validation_batch(1)["tokens"][place])
    for mine, theirs in zip(alone.model(3).parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    if task in problem.tasks:
        assert torch.equal(data.train_batch(5)["tokens"][problem.tasks.index(task)], one.train_batch(5)["tokens"][0])


@pytest.mark.slow
def test_another_process_sees_the_same(problem: CodeLM, data: CodeData, model: nn.Module, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONHASHSEED": "17", "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(SMALL)], env=environment, capture_output=True, text=True, check=True
    )
    total = sum(float(parameter.detach().double().abs().sum()) for parameter in model.parameters())
    mine = [data.fingerprint, data.train_batch(11)["tokens"].tolist(), problem.facts()["tokenizer"]["sha256"], total]
    assert json.loads(found.stdout) == mine
    assert found.stderr == ""


def test_the_seed_moves_order_and_parameters_but_not_the_corpus(problem: CodeLM, data: CodeData, model: nn.Module) -> None:
    other = problem.data(4, TRAINING)
    assert other.fingerprint == data.fingerprint
    assert not torch.equal(other.train_batch(0)["tokens"], data.train_batch(0)["tokens"])
    before = torch.random.get_rng_state()
    assert not torch.equal(next(problem.model(4).parameters()), next(model.parameters()))
    assert torch.equal(before, torch.random.get_rng_state())


def test_fingerprint_follows_the_text(tmp_path: Path) -> None:
    places = {"a": str(write_folder(tmp_path / "a", "apples")), "b": str(write_folder(tmp_path / "b", "pears"))}
    options = SMALL | {"train_bytes": None, "data": places}
    before = CodeLM(**options).data(0, TRAINING).fingerprint
    assert CodeLM(**options, tasks=["b"]).data(9, TRAINING).fingerprint == before
    changed = tmp_path / "a" / "part0" / "0.txt"
    changed.write_text(changed.read_text().replace("apples", "Apples", 1))
    assert CodeLM(**options, tasks=["b"]).data(0, TRAINING).fingerprint != before


def test_facts_are_json_and_say_where_the_text_came_from(problem: CodeLM, data: CodeData) -> None:
    facts = json.loads(json.dumps(problem.facts()))
    assert facts["corpus"] == data.fingerprint
    assert facts["languages"]["yaml"]["train_cap"] == CAPS["yaml"]
    assert facts["languages"]["yaml"]["train_bytes"] <= CAPS["yaml"]
    assert len({language["sha256"] for language in facts["languages"].values()}) == 6
    # The build after the plus is in the module alone for some wheels.
    assert facts["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert facts["sequences"]["python"]["test"] == 7


def test_a_missing_language_is_one_line_and_only_if_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.LANGUAGES, "cuda", lambda: iter(()))
    options = SMALL | {"train_bytes": CAPS | {"cuda": 777}}
    with pytest.raises(ValueError, match=r"^code_lm: expected torch/include .* task 'cuda'.*leave 'cuda' out of tasks$"):
        CodeLM(**options).data(0, TRAINING)
    problem = CodeLM(**options, tasks=["python", "yaml"])
    assert problem.data(0, TRAINING).train_batch(0)["tokens"].shape == (2, 3, 17)
    assert "cuda" not in problem.facts()["languages"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file where the folder should be fails for every user, root too.
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert cached("thing", lambda: b"payload") == b"payload"
    data = CodeLM(**SMALL, tasks=["yaml"]).data(3, TRAINING)
    assert data.train_batch(0)["tokens"].shape == (1, 3, 17)


# ---- losses and metrics ----------------------------------------------------------------------------------------------


def test_losses_are_mean_cross_entropies(problem: CodeLM, data: CodeData, model: nn.Module) -> None:
    batch = data.train_batch(2)
    losses = problem.losses(model, batch)
    for place, rows in enumerate(batch["tokens"]):
        logits = model(input_ids=rows[:, :-1]).logits
        expected = functional.cross_entropy(logits.reshape(-1, 400), rows[:, 1:].reshape(-1))
        torch.testing.assert_close(losses[place], expected)
    assert losses.requires_grad
    assert torch.equal(losses, problem.losses(model, batch))
    assert 0.8 * math.log(400) < losses.min() < losses.max() < 1.2 * math.log(400)


def test_a_loss_does_not_depend_on_other_tasks_rows(problem: CodeLM, data: CodeData, model: nn.Module) -> None:
    batch = dict(data.train_batch(2))
    before = problem.losses(model, batch)
    batch["tokens"] = batch["tokens"].clone()
    batch["tokens"][1] = 7
    after = problem.losses(model, batch)
    assert torch.equal(before[[0, 2, 3, 4]], after[[0, 2, 3, 4]])
    assert before[1] != after[1]


def test_evaluation_by_hand(problem: CodeLM, data: CodeData, model: nn.Module) -> None:
    with torch.no_grad():
        found = problem.evaluate(model, data.batches("test"))
        tokens = data.parts["test"][2].tokens
        logits = model(input_ids=tokens[:, :-1]).logits.double()
    nats = float(-logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum())
    spelled = data.parts["test"][2].bytes.sum()
    assert found.losses[2].item() == pytest.approx(nats / tokens[:, 1:].numel(), rel=1e-5)
    assert found.metrics["cuda/perplexity"] == pytest.approx(math.exp(nats / tokens[:, 1:].numel()), rel=1e-4)
    assert found.metrics["cuda/bits_per_byte"] == pytest.approx(nats / math.log(2) / float(spelled), rel=1e-5)
    assert set(found.metrics) == {metric.key for metric in problem.metrics}


def test_bits_per_byte_of_a_uniform_model(problem: CodeLM, data: CodeData) -> None:
    model = problem.model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        found = problem.evaluate(model, data.batches("validation"))
    # A model that knows nothing spends log2(400) bits on each of the 5 x 16 tokens.
    for task, part in zip(problem.tasks, data.parts["validation"], strict=True):
        assert found.metrics[f"{task}/bits_per_byte"] == pytest.approx(
            80 * math.log2(400) / float(part.bytes.sum()), rel=1e-5
        )
        assert found.metrics[f"{task}/perplexity"] == pytest.approx(400, rel=1e-4)


def test_unequal_counts_are_averaged_exactly(problem: CodeLM, data: CodeData, model: nn.Module) -> None:
    split: Split = "validation"
    parts = list(data.parts[split])
    parts[3] = corpus.Sequences(parts[3].tokens[:2], parts[3].bytes[:2])
    short = CodeData(3, 1, data.tasks, {**data.parts, split: parts}, "")
    assert [int(batch["valid"][3].sum()) for batch in short.batches(split)] == [2, 0]
    with torch.no_grad():
        found = problem.evaluate(model, short.batches(split))
        logits = model(input_ids=parts[3].tokens[:, :-1]).logits
    expected = functional.cross_entropy(logits.reshape(-1, 400), parts[3].tokens[:, 1:].reshape(-1))
    assert found.losses[3].item() == pytest.approx(float(expected), rel=1e-5)


def test_shared_layer_sees_tasks_as_consecutive_rows(problem: CodeLM, data: CodeData, model: nn.Module) -> None:
    layer = problem.shared_layer(model)
    assert layer is model.model.layers[-1].mlp.down_proj  # type: ignore[union-attr, index]
    seen = list[tuple[int, ...]]()
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    problem.losses(model, data.train_batch(0))
    handle.remove()
    assert seen == [(15, 16, 24)]


def test_training_lowers_every_loss(problem: CodeLM, data: CodeData) -> None:
    model = problem.model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with torch.no_grad():
        before = problem.evaluate(model, data.batches("validation")).losses
    for step in range(40):
        torch.autograd.backward(problem.losses(model, data.train_batch(step)).mean())
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = problem.evaluate(model, data.batches("validation")).losses
    assert (after < 0.9 * before).all()


# ---- options ---------------------------------------------------------------------------------------------------------


def test_data_option_on_mbxp() -> None:
    places = {"cpp": str(MBXP / "mbcpp_release_v1.2.jsonl.gz"), "ruby": str(MBXP / "mbrbp_release_v1.2.jsonl.gz")}
    problem = CodeLM(**SMALL | {"train_bytes": None, "data": places})
    assert problem.tasks == ("cpp", "ruby")
    data = problem.data(0, TRAINING)
    assert data.train_batch(0)["tokens"].shape == (2, 3, 17)
    facts = problem.facts()["languages"]
    kept = sum(facts["cpp"][f"{split}_documents"] for split in SPLITS)
    # 848 rows, 773 with a solution; the held-out splits are capped at 64,000 bytes.
    assert 700 <= kept <= 773
    read = corpus.from_user(places, {"cpp": 10**6, "ruby": 10**6}, None)
    cpp, ruby = ({split: {d.key for d in read[task].splits[split]} for split in SPLITS} for task in ("cpp", "ruby"))
    assert all(cpp[one].isdisjoint(ruby[other]) for one in SPLITS for other in SPLITS if one != other)
    assert cpp["train"] & ruby["train"]
    losses = problem.losses(problem.model(0), data.train_batch(0))
    assert losses.shape == (2,)
    assert losses.isfinite().all()


def test_data_option_reads_folders_and_rows(tmp_path: Path) -> None:
    rows = [{"body": f"row {number}\n" * 30, "head": None if number % 4 == 0 else "head "} for number in range(80)]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    options = SMALL | {"train_bytes": None, "data": {"words": write_folder(tmp_path / "w", "words"), "rows": path}}
    problem = CodeLM(**options, text_fields=["head", "body"])
    problem.data(0, TRAINING)
    facts = problem.facts()["languages"]
    assert sum(facts["rows"][f"{split}_documents"] for split in SPLITS) == 60
    assert sum(facts["words"][f"{split}_documents"] for split in SPLITS) == 60
    with pytest.raises(ValueError, match=r"^code_lm: expected rows with text or .* in .*, found fields body, head$"):
        CodeLM(**options).data(0, TRAINING)


def test_model_option_uses_its_model_and_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    texts = [f"words number {number}" for number in range(60)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<end>"], show_progress=False)
    )
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>").save_pretrained(tmp_path / "m")
    config = GPT2Config(vocab_size=90, n_positions=32, n_embd=8, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1)
    saved = GPT2LMHeadModel(config)
    saved.save_pretrained(tmp_path / "m")
    options = SMALL | {"train_bytes": None, "data": {"words": str(write_folder(tmp_path / "w", "words"))}}
    problem = CodeLM(**options, model=str(tmp_path / "m"))
    data, model = problem.data(0, TRAINING), problem.model(0)
    for name, parameter in saved.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))
    layer = problem.shared_layer(model)
    assert layer is model.transformer.h[-1].mlp.c_proj  # type: ignore[union-attr, index]
    model.train()
    batch = data.train_batch(0)
    assert torch.equal(problem.losses(model, batch), problem.losses(model, batch)), "dropout is off"
    part = data.parts["test"][0]
    assert int(part.tokens.max()) < 90
    # Whatever the tokenizer skips, the tokens stand for all bytes, but for the last run that is no whole sequence.
    options["test_sequences"] = 10**6
    runs = CodeLM(**options, model=str(tmp_path / "m")).data(0, TRAINING).parts["test"][0]
    size = corpus.from_user(options["data"], {"words": 10**6}, None)["words"].size("test")
    assert size - 200 < int(runs.bytes.sum()) <= size
    with pytest.raises(ValueError, match=r"^code_lm: expected sequence_length to be at most 32 .*, found 33$"):
        CodeLM(**options | {"sequence_length": 33}, model=str(tmp_path / "m")).model(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["cobol"]}, r"expected tasks among python, cpp, cuda, stubs, yaml, english, found 'cobol'"),
        ({"tasks": ["python"], "data": {"a": "."}}, r"expected tasks among a, found 'python'"),
        ({"data": {}}, r"expected data with at least one task, found none"),
        ({"vocab_size": 256}, r"expected vocab_size to be an integer at least 257, found 256"),
        ({"hidden_size": 30}, r"expected hidden_size to be a multiple of 2 \* num_heads = 8, found 30"),
        ({"sequence_length": 0}, r"expected sequence_length to be an integer at least 1, found 0"),
        ({"num_layers": 1.5}, r"expected num_layers to be an integer at least 1, found 1.5"),
        ({"train_bytes": {"cobol": 1}}, r"expected train_bytes for tasks among .*, found 'cobol'"),
        ({"train_bytes": {"yaml": -1}}, r"expected train_bytes of yaml to be an integer at least 1, found -1"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^code_lm: {message}$"):
        CodeLM(**options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, r"expected data of task 'a' to be a folder or a file named .*, found .*none.jsonl"),
        ("a.jsonl", '{"text": "x"}\nno json\n', r"expected JSON in line 2 of .*a.jsonl, found .*"),
        ("a.jsonl", "[1]\n", r"expected JSON objects in .*a.jsonl, found int"),
        (
            "a.jsonl",
            '{"text": "only one"}\n',
            r"expected text for every split of task 'a' .*, found none for validation in .*",
        ),
        ("a.jsonl.gz", "not gzip", r"expected to read data of task 'a', found .*a.jsonl.gz: .*"),
    ],
)
def test_bad_data_is_one_line(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"^code_lm: {message}$"):
        CodeLM(data={"a": str(tmp_path / name)}).data(0, TRAINING)
