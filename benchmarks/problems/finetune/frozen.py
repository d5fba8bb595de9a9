"""What the frozen layers make of every example, computed once and kept on disk by content.

The name of the file holds a hash of the frozen parameters, the examples, the type of the numbers, the version of torch and
its threads, so that what is read is to the last bit what would be computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor

from benchmarks.problems.finetune.adapt import Adapted, layers_of
from benchmarks.problems.finetune.examples import Example
from benchmarks.problems.finetune.models import content_of
from benchmarks.problems.text.cache import folder

DIGEST = hashlib.sha256().digest_size


class Hidden:
    """Hidden states of examples, mapped from a file: example -> ``(T, H)``."""

    def __init__(self, path: Path, examples: Sequence[Example], width: int, dtype: torch.dtype) -> None:
        lengths = [len(example.ids) for example in examples]
        self._ends = np.cumsum([0, *lengths])
        # Copy on write, since torch warns of memory that cannot be written to; nothing writes.
        raw = np.memmap(path, dtype=np.uint8, mode="c", offset=DIGEST)
        self._all = torch.from_numpy(raw).view(dtype).view(-1, width)

    def __getitem__(self, place: int) -> Tensor:
        """Of the example at a place."""
        return self._all[self._ends[place] : self._ends[place + 1]]


def hidden_states(model: Adapted, examples: Sequence[Example]) -> Hidden:
    """From the cache, or computed now; one process computes while others wait."""
    config: Any = model.causal.config
    dtype = model.compute
    path = folder() / f"hidden-{_key(model, examples)}"
    size = sum(len(example.ids) for example in examples) * config.hidden_size * dtype.itemsize
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if not _is_whole(path, size):
            _write(path, _computed(model, examples))
    return Hidden(path, examples, config.hidden_size, dtype)


def _key(model: Adapted, examples: Sequence[Example]) -> str:
    name, layers = layers_of(model.causal)
    above = [f".{name}.{place}." for place in range(model.low, len(layers))]
    frozen = content_of(model.causal, model.causal.config, lambda each: not any(part in each for part in above))
    device = next(model.parameters()).device.type
    facts = [frozen, model.low, model.compute, torch.__version__, torch.get_num_threads(), device]
    digest = hashlib.sha256(repr(facts).encode())
    for example in examples:
        digest.update(example.sha256)
    return digest.hexdigest()


def _computed(model: Adapted, examples: Sequence[Example]) -> Iterator[bytes]:
    """Each example alone, so that none depends on what else is there."""
    device = next(model.parameters()).device
    model.eval()
    try:
        for example in examples:
            tokens = torch.from_numpy(example.ids.astype(np.int64)).unsqueeze(0).to(device)
            hidden = model.below(tokens)[0].to(model.compute).cpu().contiguous()
            yield hidden.view(-1).view(torch.uint8).numpy().tobytes()
    finally:
        model.train()


def _is_whole(path: Path, size: int) -> bool:
    with contextlib.suppress(OSError):
        if path.stat().st_size != DIGEST + size:
            return False
        with path.open("rb") as file:
            return file.read(DIGEST) == hashlib.file_digest(file, "sha256").digest()
    return False


def _write(path: Path, parts: Iterator[bytes]) -> None:
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(DIGEST))
            for part in parts:
                digest.update(part)
                file.write(part)
            file.seek(0)
            file.write(digest.digest())
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)
