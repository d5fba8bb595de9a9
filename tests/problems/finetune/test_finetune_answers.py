"""Bits per byte, and metrics of whole answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_parts import (
    SIZES,
    adapted,
    exact,
    plainly,
)
from tiny_models import TRAINING, problem
from torch.nn import functional

from benchmarks.problems.finetune import answers
from benchmarks.problems.finetune.adapt import Adapted
from benchmarks.problems.finetune.batches import FinetuneData
from benchmarks.problems.finetune.programs import passes
from benchmarks.problems.finetune_lm import FinetuneLM

pytestmark = pytest.mark.usefixtures("model_cache")


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
