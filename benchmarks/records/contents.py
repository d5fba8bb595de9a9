"""What lies at a path, as a hash: runs are known by the content of the files they read, not by where these lie."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from benchmarks.errors import UserError

CHUNK = 2**20


def content_hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """Name -> 16 hexadecimal digits of what lies at its path, a file or a folder with all below it. Raises UserError."""
    return {name: _content(Path(path)) for name, path in sorted(files.items())}


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for file in files:
            status = file.stat()
            inside = file.relative_to(path).as_posix() if file != path else ""
            digest.update(f"{inside}\0{_file(file.resolve(), status.st_size, status.st_mtime_ns)}\0".encode())
    except OSError as error:
        raise UserError(f"expected files that can be read at {path}: {error.strerror}") from error
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=4096)
def _file(path: Path, size: int, changed: int) -> str:
    """Of one file; one of the same size and time of change is not read again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
