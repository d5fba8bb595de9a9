"""What happens to files: bits that flip, blocks that are cut, inserted, swapped or zeroed, and worse."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def flipped(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def cut(content: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.sample(range(len(content) + 1), 2))
    return content[:start] + content[end:]


def truncated(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def grown(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.randbytes(draw.randrange(1, 20)) + content[place:]


def swapped(content: bytes, draw: random.Random) -> bytes:
    one, two = sorted(draw.sample(range(len(content)), 2))
    return content[two:] + content[one:two] + content[:one]


def zeroed(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    size = min(draw.choice([1, 16, 512, 4096]), len(content) - start)
    return content[:start] + bytes(size) + content[start + size :]


def nonsense(content: bytes, draw: random.Random) -> bytes:
    texts = [b"", b"[" * 100_000, b"\xff\xfe", b"null", b"{}", b'{"schema_version": 2}', b"PAR1PAR1", content * 2]
    return draw.choice(texts)


def mistaken(content: bytes, draw: random.Random) -> bytes:
    """JSON with a value of another kind somewhere."""
    whole = json.loads(content)
    node: Any = whole
    while True:
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], dict | list) or not node[key] or draw.random() < 0.3:
            break
        node = node[key]
    node[key] = draw.choice([None, [], {}, "x", -1, 10**400, float("nan"), True, [[1], [1, 2]], {"a": {"b": 0}}])
    return json.dumps(whole).encode()


Fault = Callable[[bytes, random.Random], bytes]
Damage = Callable[[Path, random.Random], None]


def a_folder_instead(path: Path, _draw: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


def removed(path: Path, _draw: random.Random) -> None:
    path.unlink()


def rewritten(fault: Fault) -> Damage:
    """A fault of the content as damage of the file."""

    def damage_content(path: Path, draw: random.Random) -> None:
        path.write_bytes(fault(path.read_bytes(), draw))

    return damage_content


DAMAGES: tuple[Damage, ...] = (
    a_folder_instead,
    removed,
    *map(rewritten, (flipped, cut, truncated, grown, swapped, zeroed, nonsense)),
)


def damage(path: Path, draw: random.Random, more: tuple[Fault, ...] = ()) -> bool:
    """Damage a file in a drawn way. Returns whether that changed anything."""
    before = path.read_bytes()
    draw.choice((*DAMAGES, *map(rewritten, more)))(path, draw)
    return not path.is_file() or path.read_bytes() != before


def restore(path: Path, content: bytes) -> None:
    """Put the file back as it was."""
    if path.is_dir():
        shutil.rmtree(path)
    path.write_bytes(content)
