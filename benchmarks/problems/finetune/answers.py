"""Metrics of whole answers: greedy generation against the completion, and which of several choices is likeliest."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.problems.finetune.adapt import Adapted
from benchmarks.problems.finetune.examples import Example, Tokens
from benchmarks.problems.finetune.formatting import Piece
from benchmarks.problems.finetune.losses import nats_of
from benchmarks.problems.finetune.options import Source
from benchmarks.problems.finetune.programs import passes

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def generated(model: Adapted, tokens: Tokens, example: Example, most: int) -> str:
    """What the model writes greedily after an example's opening: at most so many tokens, up to the end-of-text token."""
    device = next(model.parameters()).device
    opening = torch.from_numpy(example.opening.astype(np.int64)).unsqueeze(0).to(device)
    causal: Any = model.causal
    end = tokens.end if tokens.end is not None else -1
    with model.arithmetic(device):
        found = causal.generate(
            opening,
            attention_mask=torch.ones_like(opening),
            do_sample=False,
            max_new_tokens=most,
            pad_token_id=max(end, 0),
            eos_token_id=end,
            use_cache=True,
        )
    return str(tokens.tokenizer.decode(found[0, opening.shape[1] :], skip_special_tokens=True))


def normal(text: str) -> str:
    """As SQuAD compares answers: lower case, without punctuation and English articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(found: str, answer: str) -> float:
    """1 where the two are the same after ``normal``."""
    return float(normal(found) == normal(answer))


def f1(found: str, answer: str) -> float:
    """The harmonic mean of precision and recall of words, after ``normal``."""
    ours, theirs = normal(found).split(), normal(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def likeliest(model: Adapted, tokens: Tokens, example: Example, choices: Sequence[str]) -> str:
    """The choice with the highest log-likelihood after the example's opening."""
    texts = [tokens.pieces((Piece(choice, True),))[0] for choice in choices]
    texts = [ids[len(tokens.begins) :] for ids in texts]
    rows = [np.concatenate([example.opening, ids]) for ids in texts]
    length = max(map(len, rows))
    batch = {"tokens": torch.zeros(len(rows), length, dtype=torch.int64)}
    batch["task"] = torch.full_like(batch["tokens"], -1)
    for number, row in enumerate(rows):
        batch["tokens"][number, : len(row)] = torch.from_numpy(row.astype(np.int64))
        batch["task"][number, len(example.opening) : len(row)] = number
    device = next(model.parameters()).device
    nats, chosen = nats_of(model, {name: tensor.to(device) for name, tensor in batch.items()})
    totals: Tensor = nats.new_zeros(len(rows)).index_add(0, chosen, nats)
    return choices[int(totals.argmin())]


WRITTEN: Mapping[str, Callable[[str, Example], float]] = {
    "exact_match": lambda found, example: exact_match(found, example.text.answer),
    "f1": lambda found, example: f1(found, example.text.answer),
    "pass_at_1": lambda found, example: float(passes(f"{example.text.prompt}{found}\n{example.text.test}\n")),
}
"""Metric -> its value for what was written. The last one runs it."""


class Answers:
    """Metrics of whole answers over the examples of an evaluation.

    sources    task -> what it asks for
    most       examples of a task that are answered
    most_tokens  of an answer
    """

    def __init__(self, tokens: Tokens, sources: Mapping[str, Source], *, most: int, most_tokens: int) -> None:
        self.tokens, self.sources, self.most, self.most_tokens = tokens, sources, most, most_tokens
        self.values: dict[str, dict[str, list[float]]] = {task: {} for task in sources}
        self.answered = dict.fromkeys(sources, 0)

    def look(self, model: Adapted, task: str, example: Example) -> None:
        """Answer an example, unless enough of its task are answered or nothing is asked."""
        metrics = self.sources[task].metrics
        if not metrics or self.answered[task] >= self.most:
            return
        self.answered[task] += 1
        found = generated(model, self.tokens, example, self.most_tokens) if set(metrics) & set(WRITTEN) else ""
        for metric in metrics:
            if metric in WRITTEN:
                value = WRITTEN[metric](found, example)
            else:
                chosen = likeliest(model, self.tokens, example, self.sources[task].choices)
                value = float(chosen == example.text.answer)
            self.values[task].setdefault(metric, []).append(value)

    def means(self) -> dict[str, float]:
        """``task/metric`` -> mean over the answered examples."""
        return {
            f"{task}/{metric}": sum(found) / len(found)
            for task, metrics in self.values.items()
            for metric, found in metrics.items()
        }
