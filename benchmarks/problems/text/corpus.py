"""The corpus: the splits of every language, their hashes, and sequences of tokens cut from them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.contract import Split
from benchmarks.problems.text import userdata
from benchmarks.problems.text.documents import SPLITS, Document, Piece, gather
from benchmarks.problems.text.sources import COMES_WITH, LANGUAGES
from benchmarks.problems.text.tokenizer import Encoder

HELD_OUT_CAP = 64_000
"""Bytes kept of each of the validation and test splits."""


@dataclass(frozen=True)
class Language:
    """The documents of one task."""

    name: str
    cap: int
    """Largest number of training bytes."""
    splits: Mapping[Split, Sequence[Document]]

    def texts(self, split: Split) -> list[str]:
        """The texts of a split in their fixed order."""
        return [document.text for document in self.splits[split]]

    def size(self, split: Split) -> int:
        """UTF-8 bytes of a split."""
        return sum(len(text.encode()) for text in self.texts(split))

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of all keys and texts of all splits."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for document in self.splits[split]:
                for part in (split, document.key, document.text):
                    digest.update(hashlib.sha256(part.encode()).digest())
        return digest.hexdigest()


Corpus = dict[str, Language]


@functools.lru_cache(maxsize=4)
def _read(caps: tuple[tuple[str, int], ...]) -> tuple[Language, ...]:
    # Installed files do not change under a running process, so every run in it shares one reading.
    return tuple(_language(name, cap, list(LANGUAGES[name]())) for name, cap in caps)


def _language(name: str, cap: int, pieces: Sequence[Piece]) -> Language:
    return Language(name, cap, gather(pieces, {"train": cap, "validation": HELD_OUT_CAP, "test": HELD_OUT_CAP}))


def built_in(caps: Mapping[str, int], tasks: Sequence[str], owner: str = "code_lm") -> Corpus:
    """All languages this installation has. Raises ValueError where a chosen task is missing."""
    corpus = {language.name: language for language in _read(tuple(caps.items())) if all(map(language.size, SPLITS))}
    for task in tasks:
        if task not in corpus:
            raise ValueError(
                f"{owner}: expected {COMES_WITH[task]} for task {task!r}, found none in this installation: "
                f"install it, or leave {task!r} out of tasks"
            )
    return corpus


def from_user(data: Mapping[str, str | Path], caps: Mapping[str, int], text_fields: Sequence[str] | None) -> Corpus:
    """The languages of the user's folders and files. Raises ValueError where a split would be empty."""
    corpus = Corpus()
    for task, place in data.items():
        language = _language(task, caps[task], userdata.pieces(task, place, text_fields))
        for split in SPLITS:
            if not language.size(split):
                raise ValueError(
                    f"code_lm: expected text for every split of task {task!r} (at least {userdata.FEW} files or rows, "
                    f"or 40 kB), found none for {split} in {place!s}"
                )
        corpus[task] = language
    return corpus


@dataclass(frozen=True)
class Sequences:
    """Runs of tokens of one task and split, equally long; each predicts its tokens but the first."""

    tokens: Tensor
    """``(N, T + 1)`` int64; the last token of a run is the first of the next, so that each is predicted once."""
    bytes: Tensor
    """``(N,)`` int64, UTF-8 bytes that the T predicted tokens stand for."""


def sequences(encoder: Encoder, language: Language, split: Split, length: int, most: int | None = None) -> Sequences:
    """All whole runs of a split, or ``most`` of them, evenly spread. Raises ValueError where there is none."""
    ids, sizes = encoder.stream(language.texts(split))
    count = (len(ids) - 1) // length
    if count < 1:
        raise ValueError(
            f"code_lm: expected at least {length + 1} tokens for the {split} split of task {language.name!r} "
            f"(sequence_length {length}), found {len(ids)}"
        )
    chosen = np.arange(count) if most is None or most >= count else np.arange(most) * count // most
    places = chosen[:, None] * length + np.arange(length + 1)
    return Sequences(
        torch.from_numpy(ids[places].astype(np.int64)),
        torch.from_numpy(sizes[places[:, 1:]].astype(np.int64).sum(axis=1)),
    )
