"""Tokenizers: a byte-level BPE trained on the corpus, or the one that comes with a pretrained model.

Both say of each token how many UTF-8 bytes of the text it stands for, so that losses in nats per token become bits per
byte, which models with different vocabularies share. End-of-text tokens stand for no bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.problems.text.cache import cached

END = "<|endoftext|>"

Tokens = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Token ids and the bytes each one stands for."""


class Encoder(ABC):
    """Text to token ids and byte counts."""

    sha256: str
    size: int
    """How many ids there are."""
    end: int
    """Id of the end-of-text token."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Tokens of each text, without special tokens; the byte counts of a text add up to its UTF-8 length."""

    def stream(self, texts: Sequence[str]) -> Tokens:
        """All texts in one run, an end-of-text token before each and after the last. Cached on disk."""
        digest = hashlib.sha256(self.sha256.encode())
        for text in texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        stored = cached(f"tokens-{digest.hexdigest()}", lambda: self._join(texts).tobytes())
        ids, sizes = np.frombuffer(stored, dtype="<i4").reshape(2, -1)
        return ids, sizes

    def _join(self, texts: Sequence[str]) -> NDArray[np.int32]:
        end = np.array([[self.end], [0]], dtype="<i4")
        parts = [end]
        for ids, sizes in self.encode(texts):
            parts += [np.stack([ids, sizes]).astype("<i4"), end]
        return np.concatenate(parts, axis=1)


class TrainedBPE(Encoder):
    """Byte-level BPE trained on texts and cached on disk.

    texts       the training part of the corpus
    vocab_size  ids, among them 256 for the bytes and one for end-of-text; a small corpus may give fewer
    """

    def __init__(self, texts: Sequence[str], vocab_size: int) -> None:
        # With its own threads the library warns in every forked worker, and the cores belong to other runs.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        digest = hashlib.sha256(f"{tokenizers.__version__} {vocab_size}".encode())
        for text in texts:
            digest.update(hashlib.sha256(text.encode()).digest())
        stored = cached(f"bpe-{digest.hexdigest()}", lambda: _train(texts, vocab_size).encode())
        self._tokenizer = tokenizers.Tokenizer.from_str(stored.decode())
        # A text that spells out the end-of-text token is still only text.
        self._tokenizer.encode_special_tokens = True
        self.sha256 = hashlib.sha256(stored).hexdigest()
        self.size = self._tokenizer.get_vocab_size()
        self.end = self._tokenizer.get_vocab()[END]
        # Every character of a byte-level token stands for one byte.
        self._bytes = np.zeros(self.size, dtype=np.int32)
        for token, number in self._tokenizer.get_vocab().items():
            self._bytes[number] = 0 if token == END else len(token)

    def encode(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Tokens of each text."""
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids = np.array(encoding.ids, dtype=np.int32)
            yield ids, self._bytes[ids]


def _train(texts: Sequence[str], vocab_size: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


class Pretrained(Encoder):
    """The tokenizer of a model directory or hub id, with the byte counts from the offsets of its tokens."""

    def __init__(self, name: str, revision: str | None) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoTokenizer

        with quiet():
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision)
        if not self._tokenizer.is_fast:
            raise ValueError(f"code_lm: expected a model whose tokenizer gives offsets (a fast one), found {name!r}")
        choices = (self._tokenizer.eos_token_id, self._tokenizer.sep_token_id, self._tokenizer.bos_token_id)
        ends = [number for number in choices if number is not None]
        if not ends:
            raise ValueError(f"code_lm: expected a tokenizer with an end-of-text token, found none in {name!r}")
        self.end = int(ends[0])
        self.size = len(self._tokenizer)
        self.sha256 = hashlib.sha256(self._tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Tokens of each text."""
        for text in texts:
            yield encode_text(self._tokenizer, text)


def encode_text(tokenizer: Any, text: str, *, special: bool = False) -> Tokens:
    """Tokens of a text by a fast tokenizer of transformers. special: whether it may spell special tokens."""
    found = tokenizer(
        text, add_special_tokens=False, split_special_tokens=not special, return_offsets_mapping=True, verbose=False
    )
    stops = np.array([stop for _, stop in found["offset_mapping"]], dtype=np.int64)
    return np.array(found["input_ids"], dtype=np.int32), bytes_between(text, stops)


def bytes_between(text: str, stops: NDArray[np.int64]) -> NDArray[np.int32]:
    """UTF-8 bytes from one token's end to the next. Characters shared by tokens count once, skipped ones with the next."""
    if not len(stops):
        return np.zeros(0, dtype=np.int32)
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    ends = np.concatenate([[0], np.cumsum(widths)])[np.maximum.accumulate(stops)]
    ends[-1] = widths.sum()
    return np.diff(ends, prepend=0).astype(np.int32)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers without notes and progress bars, and as it was before afterwards."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, without imports."""
    return {name: importlib.metadata.version(name) for name in packages}
