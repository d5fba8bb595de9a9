"""Errors that are the user's to mend: one line, what was expected, what was found, where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
"""What readers of files raise on what nobody would write."""


class UserError(Exception):
    """Bad input. Its message is the one line that the user reads; the command ends with exit code 2."""


class StorageError(Exception):
    """Results cannot be written. Its message is the one line that the user reads; what was finished is kept."""

    @classmethod
    def of(cls, error: OSError, place: object) -> StorageError:
        """From what the system said of a place."""
        return cls(f"cannot write {error.filename or place}: {error.strerror or error}")


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for an unknown name, with the nearest known one."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(names) or 'none'}"


def one_line(error: BaseException) -> str:
    """The first line of an exception, with its type where the text alone says little."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError | ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
