"""A table before it is written: numbers, headers, directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from benchmarks.records.schema import Floats

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
    right: bool = False
    """Text that stands to the right, as numbers do."""
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

    def numbers(self, column: Column) -> tuple[Floats, Floats]:
        """A column of numbers and its standard errors, ``(rows,)`` each; NaN where there is none."""
        means = self.frame[column.key].to_numpy(np.float64)
        name = column.key + ERROR
        return means, self.frame[name].to_numpy(np.float64) if name in self.frame else np.full_like(means, math.nan)

    def best(self) -> set[tuple[int, int]]:
        """(Row, column) of the best values, among the rows that are ranked. A column in which all are equal has none."""
        found: set[tuple[int, int]] = set()
        rows = list(self.ranked)
        for index, column in enumerate(self.columns):
            if column.better is None or len(rows) < 2:
                continue
            values = self.numbers(column)[0][rows]
            known = values[np.isfinite(values)]
            if known.size < 2 or np.ptp(known) == 0:
                continue
            goal = known.min() if column.better == "lower" else known.max()
            found |= {(row, index) for row, value in zip(rows, values, strict=True) if value == goal}
        return found

    def decimals(self, column: Column, digits: int) -> int:
        """Decimals of a whole column, where they are not given.

        So many digits of the typical standard error, else four digits of the typical number.
        """
        if column.decimals is not None:
            return column.decimals
        means, errors = self.numbers(column)
        known = errors[np.isfinite(errors) & (errors > 0)]
        if known.size == 0:
            known, digits = np.abs(means[np.isfinite(means) & (means != 0)]), 4
            if known.size == 0 or np.all(known == np.round(known)):
                return 0
        typical = float(np.median(known))
        return int(np.clip(digits - 1 - math.floor(math.log10(typical)), 0, 5))
