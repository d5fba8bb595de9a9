"""From words to tokens: ids, which of them are learned, and the bytes that each stands for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.problems.finetune import OWNER
from benchmarks.problems.finetune.formatting import Piece, Written
from benchmarks.problems.text.tokenizer import encode_text


@dataclass(frozen=True)
class Example:
    """One example of a task in tokens."""

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_]
    """Which tokens are predicted in training; never the first."""
    sizes: NDArray[np.int32]
    """UTF-8 bytes that each token stands for; an end-of-text token stands for none."""
    text: Written
    """In words."""

    @property
    def opening(self) -> NDArray[np.int32]:
        """The tokens before the first one that is learned."""
        return self.ids[: int(self.learned.argmax())]

    @property
    def sha256(self) -> bytes:
        """Hash of tokens and of which are learned."""
        return hashlib.sha256(self.ids.astype("<i4").tobytes() + self.learned.tobytes()).digest()


@dataclass
class Cuts:
    """How many examples were longer than the limit."""

    prompts: int = 0
    """Examples that lost the beginning of their prompt."""
    completions: int = 0
    """Examples that lost the end of what is learned."""
    examples: int = 0
    """All that were looked at."""


@dataclass
class Tokens:
    """Examples in tokens, cut to a length.

    tokenizer   of the model
    max_length  most tokens of an example: the prompt loses its beginning first, then what is learned its end
    """

    tokenizer: Any
    max_length: int
    cuts: dict[str, Cuts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        self.end: int | None = next((number for number in ends if number is not None), None)
        opened = self.tokenizer("")["input_ids"]
        self.begins = [number for number in opened[:1] if number == self.tokenizer.bos_token_id]

    def examples(self, task: str, texts: Iterable[Written]) -> list[Example]:
        """The examples of a task. Raises ValueError where nothing of one is learned."""
        return [self._example(task, text) for text in texts]

    def pieces(self, pieces: Sequence[Piece]) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int32]]:
        """Ids, which are learned, and bytes. A chat template's own tokens stand for no bytes."""
        parts = [(*encode_text(self.tokenizer, piece.text, special=piece.template), piece) for piece in pieces]
        begins = np.array([] if any(piece.template for piece in pieces) else self.begins, dtype=np.int32)
        ids = np.concatenate([begins, *(ids for ids, _, _ in parts)])
        learned = np.concatenate([np.zeros(len(begins), bool), *(np.full(len(i), p.learned) for i, _, p in parts)])
        sizes = np.concatenate([np.zeros_like(begins), *(sizes * (not piece.template) for _, sizes, piece in parts)])
        return ids.astype(np.int32), learned.astype(bool), sizes.astype(np.int32)

    def _example(self, task: str, text: Written) -> Example:
        ids, learned, sizes = self.pieces(text.pieces)
        if text.ends and self.end is not None:
            ids, learned, sizes = np.append(ids, np.int32(self.end)), np.append(learned, True), np.append(sizes, np.int32(0))
        kept = self._kept(task, len(ids), int(learned.argmax()))
        ids, learned, sizes = ids[kept], learned[kept], sizes[kept]
        # Nothing comes before the first token by which it could be predicted.
        learned[:1] = False
        if not learned.any():
            raise ValueError(
                f"{OWNER}: expected tokens to learn in every example of task {task!r}, found none in {text.answer[:40]!r}: "
                f"of {len(ids)} tokens all are masked (max_length {self.max_length})"
            )
        return Example(ids, learned, sizes, text)

    def _kept(self, task: str, length: int, opening: int) -> NDArray[np.intp]:
        cuts = self.cuts.setdefault(task, Cuts())
        cuts.examples += 1
        places, start = np.arange(length), len(self.begins)
        # One token of the prompt stays: without it the first learned one could not be predicted.
        room = max(0, opening - start - 1)
        lost = min(room, max(0, length - self.max_length))
        cuts.prompts += lost > 0
        places = np.concatenate([places[:start], places[start + lost :]]) if lost else places
        cuts.completions += len(places) > self.max_length
        return places[: self.max_length]
