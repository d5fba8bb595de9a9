"""Every mistake in options and data gets one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from finetune_parts import (
    FakeHub,
    example_of,
    tokenizer,
)
from tiny_models import PAIR, TRAINING, problem, training, write_model, write_rows

from benchmarks.problems.finetune.examples import Tokens
from benchmarks.problems.finetune.formatting import written
from benchmarks.problems.finetune.options import Source
from benchmarks.problems.finetune_lm import FinetuneLM

pytestmark = pytest.mark.usefixtures("model_cache")

HUB = {"hub": "x/y"}


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adapt": "lorra"}, ["adapt", "mapping", "'lorra'"]),
        ({"adapt": {"lora": {}, "full": True}}, ["adapt", "exactly one of lora, full and last_layers"]),
        ({"adapt": {"lora": {"rank": 0}}}, ["adapt.lora.rank", "greater than or equal to 1", "found 0"]),
        ({"adapt": {"lora": {"ranks": 4}}}, ["adapt.lora.ranks", "did you mean 'rank'?"]),
        ({"adapt": {"last_layers": 2.5}}, ["adapt.last_layers", "integer", "2.5"]),
        ({"sampling": "often"}, ["sampling", "equal, proportional or {temperature: T}", "'often'"]),
        ({"sampling": {"temperature": 0}}, ["sampling", "above 0", "{'temperature': 0}"]),
        ({"dtype": "float16"}, ["dtype", "float32, bfloat16", "'float16'"]),
        ({"quantization": "8bit"}, ["quantization", "4bit", "'8bit'"]),
        ({"max_length": 1}, ["max_length", "at least 2", "found 1"]),
        ({"adapt": "full", "cache_frozen": True}, ["cache_frozen", "frozen layers", "full"]),
        ({"packed": True, "attn_implementation": "flash_attention_2"}, ["sdpa or eager", "flash_attention_2"]),
        ({"source": {"prompts": "x"}}, ["source.prompts", "did you mean 'prompt'?"]),
        ({"source": {"prompt": "x"}}, ["source", "prompt and completion together"]),
        ({"source": {"text": "x", "messages": "y"}}, ["one form"]),
        ({"sources": {"a": {**HUB, "text": "x", "metrics": ["f1"]}}}, ["sources.a", "prompt and completion for metrics"]),
        ({"sources": {"a": {**HUB, **PAIR, "metrics": ["f2"]}}}, ["sources.a.metrics", "'f2'"]),
        ({"sources": {"a": {**HUB, **PAIR, "metrics": ["choice_accuracy"]}}}, ["sources.a", "at least two choices"]),
        ({"sources": {"a": {**HUB, **PAIR, "metrics": ["pass_at_1"]}}}, ["sources.a", "a test for pass_at_1"]),
        ({"sources": {"a": {**HUB, **PAIR, "metrics": ["pass_at_1"], "test": "test"}}}, ["run_code: true", "'a'"]),
        ({"sources": {"a": {**HUB, "splits": {"test": "dev"}}}}, ["splits with train"]),
        ({"tasks": ["b"], "sources": {"a": {"hub": "x/y"}}}, ["expected tasks among a", "'b'"]),
        ({"sources": {"pithon": {"most": {"train": 2}}}}, ["sources for tasks among python, cpp, ", "'pithon'"]),
        ({"sources": {"python": 3}}, ["sources.python as a mapping", "3"]),
        ({"data": {"a": "x"}, "sources": {"b": PAIR}}, ["hub id in sources for task 'b', found neither"]),
        ({"data": {"a": "x"}, "source": {"hub": "x/y"}}, ["for task 'a', found both"]),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used_get_one_line(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^finetune_lm: ") as told:
        FinetuneLM(**options)
    assert "\n" not in str(told.value)
    assert [word for word in words if word not in str(told.value)] == [], str(told.value)


@pytest.mark.parametrize(
    ("row", "source", "words"),
    [
        ({"prompt": "p", "completion": ""}, PAIR, ["expected a completion in every row", "an empty one", '"prompt": "p"']),
        ({"prompt": "p", "answer": "x"}, PAIR, ["the field 'completion'", "found prompt, answer"]),
        ({"prompt": "p", "completion": {"a": 1}}, {**PAIR, "completion": "completion.b"}, ["'completion.b'", "found a"]),
        ({"prompt": "p", "answer": "x"}, {}, ["prompt and completion, messages or text", "found fields prompt, answer"]),
        ({"turns": [{"role": "user", "content": "x"}]}, {"messages": "turns"}, ["an assistant's message", "found none"]),
        ({"turns": "hello"}, {"messages": "turns"}, ["list of role and content"]),
        ({"prompt": "p", "completion": "2"}, {**PAIR, "values": {"completion": {"0": "no"}}}, ["one of 0", "found '2'"]),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_get_one_line(
    tmp_path: Path, row: dict[str, Any], source: dict[str, Any], words: list[str]
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row] * 40)
    found = FinetuneLM(data={"a": path}, source=source, model="tiny", adapt="full", max_length=500)
    with pytest.raises(ValueError, match=r"^finetune_lm: ") as told:
        found.data(0, TRAINING)
    assert "\n" not in str(told.value)
    assert [word for word in words if word not in str(told.value)] == [], str(told.value)


def test_an_example_of_which_nothing_is_left_to_learn_gets_one_line() -> None:
    """A text of one token, where the length ends before the token after it."""
    own = tokenizer()
    texts = written("a", [{"text": "x"}], Source(text="text"), own)
    with pytest.raises(ValueError, match=r"tokens to learn in every example of task 'a', found none .* of 1 tokens all are"):
        Tokens(own, 1).examples("a", texts)


def test_files_that_cannot_be_read_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": 1}\n{')
    (tmp_path / "a.csv").write_text("prompt,completion\n1,2\n3\n")
    (tmp_path / "a.parquet").write_text("no parquet")
    (tmp_path / "a.txt").write_text("text")
    for name, words in (
        ("a.jsonl", "expected JSON in line 2"),
        ("a.csv", r"expected 2 columns \(prompt, completion\) in line 3"),
        ("a.parquet", "expected to read data of task 'a'"),
        ("a.txt", r"a folder or a file named \*.jsonl"),
    ):
        found = FinetuneLM(data={"a": str(tmp_path / name)}, source=PAIR, model="tiny", adapt="full")
        with pytest.raises(ValueError, match=words) as told:
            found.data(0, TRAINING)
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"expected a folder or a file for data.a, found nothing at .*/none"):
        FinetuneLM(data={"a": str(tmp_path / "none")}, model="tiny").files()


def test_a_hub_that_does_not_answer_gets_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FinetuneLM(source={**PAIR, "hub": "nobody/nothing"}, sources={"a": {}}, model="tiny", adapt="full")
    with pytest.raises(ValueError, match=r"'nobody/nothing' .*, found: .*Couldn't find 'nobody/nothing' on the hub$"):
        found.data(0, TRAINING)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"expected the package datasets .*pip install 'mtl-weighting\[finetune\]'"):
        found.data(0, TRAINING)


def test_fewer_examples_than_a_batch(tmp_path: Path) -> None:
    found = problem(tmp_path, {"a": 40, "b": 40}, source={"most": {"train": 3}})
    with pytest.raises(ValueError, match="at least batch_size = 4 training examples of task 'a', found 3"):
        found.data(0, training(batch_size=4))


def test_no_examples_in_a_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="examples for every split of task 'a', found none for validation of 1 in all"):
        problem(tmp_path, {"a": 1}).data(0, TRAINING)
    with pytest.raises(ValueError, match="expected rows of task 'a', found none for train of 40 read"):
        problem(tmp_path, {"a": 40}, source={"where": {"id": "Y/*"}}).data(0, TRAINING)


def test_no_chat_template(tmp_path: Path) -> None:
    found = problem(tmp_path, {"a": 40}, model=write_model(tmp_path / "m"), source={"chat": True})
    with pytest.raises(ValueError, match="a tokenizer with a chat template for task 'a', found none"):
        found.data(0, TRAINING)


def test_a_sequence_longer_than_the_model_s(tmp_path: Path) -> None:
    found = problem(tmp_path, {"a": 40}, model=write_model(tmp_path / "m"), max_length=129)
    with pytest.raises(ValueError, match="max_length to be at most the model's 128, found 129"):
        found.data(0, TRAINING)


def test_the_text_of_another_character_set_keeps_its_bytes() -> None:
    example = example_of(PAIR, {"prompt": "질문", "completion": "군사령관"})
    assert example.sizes[example.learned].sum() == len("군사령관".encode())
    assert example.sizes[~example.learned].sum() == len("질문".encode())
