"""A table before it is written: numbers, headers, directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

ERROR = ".se"
"""What a standard error's column is called after its mean's."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    header: str
    better: Literal["lower", "higher"] | None = None
    short: str = ""
    """The header where there is little room."""
    decimals: int | None = None
    """As many as the standard errors allow, unless given."""
    opens_block: bool = False
    """This column and those after it stay together where a table must be broken."""

    @property
    def arrow(self) -> str:
        """The direction, as headers show it."""
        return {"lower": " ↓", "higher": " ↑", None: ""}[self.better]


@dataclass(frozen=True)
class Table:
    """Numbers with what a reader needs to know about them."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    frame: pd.DataFrame
    """One row per line; for every column its key and, where it is a mean over seeds, key + ``ERROR``."""
    ranked: tuple[int, ...] = ()
    """The rows among which the best is marked."""
    notes: tuple[str, ...] = ()
