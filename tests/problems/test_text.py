"""The text of the code completion problem: sources, documents, splits, tokenizer and cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.problems.text import corpus
from benchmarks.problems.text.cache import cached, folder
from benchmarks.problems.text.documents import BLOCK_BYTES, SPLITS, blocks, clean, clip, gather
from benchmarks.problems.text.sources import LANGUAGES
from benchmarks.problems.text.tokenizer import END, TrainedBPE, bytes_between

pytestmark = pytest.mark.usefixtures("own_cache")

CAPS = {"python": 60_000, "cpp": 60_000, "cuda": 40_000, "stubs": 30_000, "yaml": 12_000, "english": 12_000}


def test_no_text_is_in_two_splits() -> None:
    languages = corpus.built_in(CAPS, tuple(CAPS))
    for language in languages.values():
        texts = [set(language.texts(split)) for split in SPLITS]
        keys = [{document.key for document in language.splits[split]} for split in SPLITS]
        assert all(texts)
        assert sum(map(len, texts)) == len(set.union(*texts)) == sum(len(language.splits[split]) for split in SPLITS)
        assert sum(map(len, keys)) == len(set.union(*keys))
        assert language.size("train") <= CAPS[language.name]
        assert language.size("train") > 0.8 * CAPS[language.name]


def test_sources_leave_out_what_differs_between_builds() -> None:
    keys = {name: {piece.key for piece in LANGUAGES[name]()} for name in ("python", "cpp", "cuda", "yaml")}
    assert "json/decoder.py" in keys["python"]
    assert not any(part in key.split("/") for key in keys["python"] for part in ("test", "site-packages", "encodings"))
    assert "c10/util/ArrayRef.h" in keys["cpp"]
    assert not any(key.startswith("ATen/ops/") or "/hip/" in key for key in keys["cpp"] | keys["cuda"])
    assert {"ATen/Config.h", "ATen/MPSFunctions.h", "ATen/RegistrationDeclarations.h"}.isdisjoint(keys["cpp"])
    assert "ATen/cuda/CUDAConfig.h" not in keys["cuda"]
    assert any(key.endswith(".cuh") for key in keys["cuda"])
    assert keys["cpp"].isdisjoint(keys["cuda"])
    assert any(key.startswith("packaged/ATen/native/native_functions.yaml#") for key in keys["yaml"])


def test_clean_text() -> None:
    assert clean(b"\xef\xbb\xbfa\r\nb\rc\n") == "a\nb\nc\n"
    assert clean(b"\xff\xfe") is None
    assert clip("one\ntwo\nthree\n", 9) == "one\ntwo\n"
    assert clip("äöü\nx\n", 6) == ""
    assert clip("äöü\nx\n", 7) == "äöü\n"


def test_blocks_are_whole_lines_and_lose_nothing() -> None:
    text = "".join(f"line {number}\n" for number in range(9_000)) + "no line end"
    pieces = list(blocks("big", text))
    assert "".join(piece.read() or "" for piece in pieces) == text
    assert all((piece.read() or "").endswith("\n") for piece in pieces[:-1])
    assert all(BLOCK_BYTES <= len(piece.read() or "") < BLOCK_BYTES + 20 for piece in pieces[:-1])
    assert [piece.split for piece in pieces[:10]] == ["train"] * 8 + ["validation", "test"]


def test_duplicates_are_taken_once() -> None:
    pieces = [*blocks("a", "same line\n" * 300), *blocks("b", "same line\n" * 300)]
    taken = gather(pieces, dict.fromkeys(SPLITS, 10**6))
    assert sum(map(len, taken.values())) == 1


def test_byte_counts_of_tokens_are_exact() -> None:
    texts = ["def f(x):\n    return x\n" * 5, "Grüße, 世界! 🎉🎉\n", "a" + END + "b", ""]
    encoder = TrainedBPE(texts, 300)
    for text, (ids, sizes) in zip(texts, encoder.encode(texts), strict=True):
        assert sizes.sum() == len(text.encode())
        assert encoder.end not in ids
    ids, sizes = encoder.stream(texts)
    assert (ids == encoder.end).sum() == len(texts) + 1
    assert sizes[ids == encoder.end].sum() == 0
    assert sizes.sum() == sum(len(text.encode()) for text in texts)


def test_bytes_between_offsets() -> None:
    # Two tokens share the first character, the space is skipped, and the last token leaves a line end.
    assert bytes_between("世 ab\n", np.array([1, 1, 3, 4])).tolist() == [3, 0, 2, 2]


def test_cache_is_used_and_a_damaged_file_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = list[int]()

    def build() -> bytes:
        built.append(1)
        return b"payload"

    assert cached("thing", build) == cached("thing", build) == b"payload"
    assert len(built) == 1
    path = folder() / "thing"
    for damage in (b"", path.read_bytes()[:-1], b"x" * 100):
        path.write_bytes(damage)
        assert cached("thing", build) == b"payload"
    assert len(built) == 4
    assert [entry.name for entry in folder().iterdir()] == ["thing"]
