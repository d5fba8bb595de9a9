"""From files to documents: normalising, blocks, splits by hash, byte caps.

Everything is ordered by the SHA-256 of a document's key (its POSIX path below a root, with a block number where a file
is cut), never by the order in which a file system lists it. A new version of a package then changes the sample by a few
percent instead of reshuffling it, and every operating system sees the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.contract import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FILE_CAP = 24_000
"""Bytes taken of one file, so that no single file is a language."""
BLOCK_BYTES = 4_000
"""Size of a block where a language is a few big files."""
BLOCK_PLACES: dict[int, Split] = {8: "validation", 9: "test"}
"""By block number modulo ten; all others train."""
HELD_OUT = 26
"""Of 256 values of the first byte of a key's hash: a tenth for validation, the next tenth for test."""


@dataclass(frozen=True)
class Piece:
    """A document that may be read: its text, or None where it cannot be used."""

    key: str
    split: Split
    read: Callable[[], str | None]


@dataclass(frozen=True)
class Document:
    """A text and where it came from."""

    key: str
    text: str


def sha(text: str) -> bytes:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).digest()


def clean(raw: bytes) -> str | None:
    """UTF-8 text with LF line ends and no byte-order mark; None where the bytes are no UTF-8."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path) -> str | None:
    """The cleaned text of a file, None where it cannot be read."""
    try:
        return clean(path.read_bytes())
    except OSError:
        return None


def clip(text: str, limit: int) -> str:
    """The longest run of whole lines from the start with at most ``limit`` UTF-8 bytes."""
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return raw[: raw.rfind(b"\n", 0, limit) + 1].decode()


def split_of(key: str) -> Split:
    """The split a key's hash gives."""
    first = sha(key)[0]
    if first < HELD_OUT:
        return "validation"
    return "test" if first < 2 * HELD_OUT else "train"


def blocks(key: str, text: str) -> Iterator[Piece]:
    """A text in runs of whole lines of about ``BLOCK_BYTES`` bytes; of every ten, one for validation and one for test."""
    lines, size, number = list[str](), 0, 0
    for line in [*text.splitlines(keepends=True), ""]:
        if lines and (size >= BLOCK_BYTES or not line):
            yield Piece(f"{key}#{number}", BLOCK_PLACES.get(number % 10, "train"), partial(str, "".join(lines)))
            lines, size, number = [], 0, number + 1
        lines.append(line)
        size += len(line.encode())


def gather(pieces: Iterable[Piece], caps: Mapping[Split, int]) -> dict[Split, tuple[Document, ...]]:
    """Documents of each split in hash order until its cap of bytes is full. Exact duplicates are taken once."""
    taken: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    room = dict(caps)
    seen = set[bytes]()
    for piece in sorted(pieces, key=lambda piece: sha(piece.key)):
        if room[piece.split] <= 0:
            continue
        text = piece.read() or ""
        whole = clip(text, FILE_CAP)
        kept = clip(whole, room[piece.split])
        marks = {sha(text), sha(kept)}
        if seen.isdisjoint(marks) and whole.strip():
            # The document that meets the cap is cut there and is the last one of its split.
            room[piece.split] = room[piece.split] - len(kept.encode()) if kept == whole else 0
            if kept.strip():
                taken[piece.split].append(Document(piece.key, kept))
                seen |= marks
    return {split: tuple(documents) for split, documents in taken.items()}
