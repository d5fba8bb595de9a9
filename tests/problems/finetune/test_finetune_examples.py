"""How rows become texts and tokens, and which of these are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finetune_parts import (
    example_of,
    tokenizer,
)
from tiny_models import PAIR, write_model

from benchmarks.problems.finetune.examples import Tokens
from benchmarks.problems.finetune.formatting import written
from benchmarks.problems.finetune.models import Pretrained
from benchmarks.problems.finetune.options import Source

pytestmark = pytest.mark.usefixtures("model_cache")


def shown(example: Any) -> list[tuple[str, bool]]:
    """Runs of tokens with the same mark, as text."""
    own, runs = tokenizer(), list[tuple[list[int], bool]]()
    for number, mark in zip(example.ids.tolist(), example.learned.tolist(), strict=True):
        if not runs or runs[-1][1] != mark:
            runs.append(([], mark))
        runs[-1][0].append(number)
    return [(own.decode(ids), mark) for ids, mark in runs]


def test_the_completion_and_its_end_are_learned() -> None:
    example = example_of({**PAIR, "separator": "->"}, {"prompt": "ä b", "completion": "ç d"})
    assert shown(example) == [("ä b->", False), ("ç d<|endoftext|>", True)]
    assert example.sizes.tolist() == [2, 0, *[1] * 4, 2, 0, 1, 1, 0]
    assert decoded_opening(example) == "ä b->"


def decoded_opening(example: Any) -> str:
    return str(tokenizer().decode(example.opening.tolist()))


def test_all_is_learned_but_the_first_token_where_train_on_says_so() -> None:
    example = example_of({**PAIR, "train_on": "all"}, {"prompt": "ab", "completion": "cd"})
    assert shown(example) == [("a", False), ("bcd<|endoftext|>", True)]


def test_text_that_spells_a_special_token_stays_text() -> None:
    example = example_of(PAIR, {"prompt": "a<|endoftext|>", "completion": "<|im_end|>"})
    assert len(example.ids) == len("a<|endoftext|><|im_end|>") + 1
    assert (example.ids >= 256).sum() == 1 and example.ids[-1] == 256
    assert example.sizes.sum() == len("a<|endoftext|><|im_end|>")


CHAT = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "one<|im_end|>"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
]


def test_a_chat_teaches_what_the_assistant_says() -> None:
    example = example_of({"messages": "turns"}, {"turns": CHAT})
    opening = "<|im_start|>system\nbe short<|im_end|>\n<|im_start|>user\none<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert shown(example) == [
        (opening, False),
        ("two<|im_end|>\n", True),
        ("<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n", False),
        ("four<|im_end|>\n", True),
    ]
    # The template's own special tokens, and none of what a user spelled.
    assert (example.ids >= 256).sum() == 10
    assert example.sizes[example.learned].sum() == len("twofour")


def test_prompt_and_completion_as_a_chat() -> None:
    example = example_of({**PAIR, "chat": True}, {"prompt": "hi", "completion": "ho"})
    assert shown(example)[-1] == ("ho<|im_end|>\n", True)
    assert shown(example)[0][0].endswith("hi<|im_end|>\n<|im_start|>assistant\n")


def test_a_model_s_opening_token_comes_first(tmp_path: Path) -> None:
    own = Pretrained(write_model(tmp_path / "m", begins=True), None, "float32", "sdpa", None).tokenizer()
    (example,) = Tokens(own, 100).examples("a", written("a", [{"prompt": "x", "completion": "y"}], Source(**PAIR), own))
    assert example.ids[0] == own.bos_token_id and example.ids[-1] == own.eos_token_id
    assert own.decode(example.ids[example.learned]) == "y</s>"


@pytest.mark.parametrize(
    ("length", "opening", "learns", "cuts"),
    [
        (11, "abcdef", "wxyz<|endoftext|>", (0, 0)),
        (8, "def", "wxyz<|endoftext|>", (1, 0)),
        (6, "f", "wxyz<|endoftext|>", (1, 0)),
        (4, "f", "wxy", (1, 1)),
    ],
)
def test_long_examples_lose_the_beginning_of_the_prompt_first(
    length: int, opening: str, learns: str, cuts: tuple[int, int]
) -> None:
    own = tokenizer()
    tokens = Tokens(own, length)
    (example,) = tokens.examples("a", written("a", [{"prompt": "abcdef", "completion": "wxyz"}], Source(**PAIR), own))
    assert shown(example) == [(opening, False), (learns, True)]
    assert (tokens.cuts["a"].prompts, tokens.cuts["a"].completions, tokens.cuts["a"].examples) == (*cuts, 1)


def test_templates_take_fields_of_any_name_and_braces_written_twice() -> None:
    row = {"my field": "x", "more": {"deep": ["y", "z"]}, "prompt": "p", "completion": "c"}
    example = example_of({"prompt": "{{{my field}}} {more.deep.1} {more.deep}", "completion": "completion"}, row)
    assert shown(example)[0] == ("{x} z y\nz", False)
    with pytest.raises(ValueError, match="with the field ' a; ', found my field, more, prompt, completion"):
        example_of({"prompt": "int main() { a; }", "completion": "completion"}, row)


def test_rows_with_a_null_are_left_out() -> None:
    assert written("a", [{"prompt": "p", "completion": None}], Source(**PAIR), tokenizer()) == []
