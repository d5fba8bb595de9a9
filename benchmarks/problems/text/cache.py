"""A cache on disk that can only help: racing processes, damaged files and a folder that cannot be written do no harm."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """``multitask-weighting`` below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or "~/.cache").expanduser() / "multitask-weighting"


def cached(name: str, build: Callable[[], bytes]) -> bytes:
    """The bytes stored under a name, or built and stored now. The name must hold a hash of all that ``build`` depends on."""
    path: Path | None = None
    with contextlib.suppress(OSError, RuntimeError):
        path = folder() / name
        stored = path.read_bytes()
        if stored[:32] == hashlib.sha256(stored[32:]).digest():
            return stored[32:]
    payload = build()
    if path is not None:
        _store(path, hashlib.sha256(payload).digest() + payload)
    return payload


def _store(path: Path, content: bytes) -> None:
    scratch = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        # A rename is atomic, so another process reads the old file, the new one, or none, never a part of one.
        Path(scratch).replace(path)
    except OSError:
        if scratch:
            with contextlib.suppress(OSError):
                Path(scratch).unlink()
