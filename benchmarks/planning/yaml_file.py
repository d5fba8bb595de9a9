"""A YAML file as plain values, and the lines that they stand in. YAML 1.2: ``3e-4`` is a number, ``no`` is text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from benchmarks.errors import UNREADABLE, UserError


@dataclass(frozen=True)
class YamlFile:
    """What a file holds."""

    path: Path
    content: dict[Any, Any]
    """Mappings, lists, text, numbers, true and false, dates and nothing."""
    tree: CommentedMap
    """The same with the lines of its parts."""

    def where(self, place: Sequence[str | int]) -> str:
        """``file:line: a.b[2].c``, with the line of the deepest part of the place that the file has."""
        node, line = self.tree, 0
        for part in place:
            if isinstance(node, CommentedMap) and part in node.lc.data:
                line = node.lc.value(part)[0]
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                line = node.lc.item(part)[0]
            else:
                break
            node = node[part]
        words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        return f"{self.path}:{line + 1}: {words}" if words else f"{self.path}:{line + 1}"


def read_yaml(path: Path, keys: str) -> YamlFile:
    """Read a file that is a mapping. keys: its most important ones, for the message. Raises UserError with one line."""
    try:
        tree = YAML().load(path.read_text(encoding="utf-8"))
        content = _plain(tree)
    except OSError as error:
        raise UserError(f"{path}: expected a readable file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text: {error.reason} at byte {error.start}") from error
    except DuplicateKeyError as error:
        key = str(error.problem).partition('"')[2].partition('" with value')[0]
        line = 0 if error.problem_mark is None else error.problem_mark.line
        raise UserError(f"{path}:{line + 1}: {key}: expected the key once, found it twice") from error
    except (YAMLError, *UNREADABLE) as error:
        raise UserError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, CommentedMap):
        raise UserError(f"{path}: expected a mapping with {keys}, found {content!r}")
    return YamlFile(path, content, tree)


def _plain(node: Any) -> Any:
    """Without what the library adds to remember how a value was written. Raises ValueError for a value with a tag."""
    if isinstance(node, CommentedMap):
        return {_plain(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    if isinstance(node, tuple):
        return tuple(map(_plain, node))
    if node is None or isinstance(node, bool | date):
        return node
    for kind in (str, int, float):
        if isinstance(node, kind):
            return kind(node)
    raise ValueError(f"values without a tag are expected, found {getattr(node, 'tag', node)}")
