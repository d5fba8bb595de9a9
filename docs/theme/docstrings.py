"""Docstrings as Markdown: they are plain text in columns, whose lines and spaces say something."""

from __future__ import annotations

import re
from typing import Any

import griffe

COLUMNS = re.compile(r"\S {2,}\S|^\s+\S", flags=re.MULTILINE)


class PlainText(griffe.Extension):
    """Paragraphs that are a table or an example keep their lines."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of whatever was loaded."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """text: a docstring without the indentation of its code."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text.strip("\n")))


def _paragraph(text: str) -> str:
    if text.lstrip().startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if text.startswith("    "):
        return f"```python\n{text}\n```"
    if COLUMNS.search(text):
        plain = text.replace("``", "")
        return f"```text\n{plain}\n```"
    return re.sub(r"::$", ":", text)
