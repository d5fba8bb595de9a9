"""Tables as text: CSV (all digits), Markdown, LaTeX, terminal (as many digits as the standard errors allow)."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence

import pandas as pd

from benchmarks.analysis.table import ERROR, Column, Table

MISSING = "–"  # noqa: RUF001  the dash that typography has for "none"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "Δ": r"$\Delta$",
    MISSING: "--",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def cells(table: Table, *, compact: bool = False) -> list[list[str]]:
    """The table's rows as text, one cell for every column; ``compact``: one digit of the standard errors, no spaces."""
    return [list(row) for row in zip(*(_column(table, column, compact) for column in table.columns), strict=True)]


def to_csv(frame: pd.DataFrame) -> str:
    """All digits, plain column names."""
    return frame.to_csv(index=False, lineterminator="\n")


def table_csv(table: Table) -> str:
    """The columns shown and their standard errors, under their keys."""
    names = [name for column in table.columns for name in (column.key, column.key + ERROR)]
    return to_csv(table.frame[[name for name in names if name in table.frame.columns]])


def to_markdown(table: Table) -> str:
    """Title, table, caption; the best values in bold."""
    tail = [escape_markdown(line) for line in (table.caption, *table.notes)]
    return "\n".join([f"### {table.title}", "", markdown_rows(table), "", "\n\n".join(tail), ""])


def markdown_rows(table: Table) -> str:
    """The table alone; the best values in bold."""
    bold = table.best()
    text = [[escape_markdown(cell) for cell in row] for row in cells(table)]
    rows = [[f"**{cell}**" if (i, j) in bold else cell for j, cell in enumerate(row)] for i, row in enumerate(text)]
    header = [escape_markdown(column.header + column.arrow) for column in table.columns]
    ruler = ["---:" if _is_right(table.frame, column) else "---" for column in table.columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ruler, *rows))


def to_latex(table: Table) -> str:
    """A table environment (package booktabs); the best values in bold."""
    bold = table.best()
    rows = [
        [f"\\textbf{{{cell}}}" if (i, j) in bold else cell for j, cell in enumerate(map(_latex_cell, row))]
        for i, row in enumerate(cells(table))
    ]
    header = [_escape_latex((column.short.replace("/ ", "/") or column.header) + column.arrow) for column in table.columns]
    spec = "".join("r" if _is_right(table.frame, column) else "l" for column in table.columns)
    body = [" & ".join(row) + r" \\" for row in rows]
    caption = _escape_latex(" ".join((f"{table.title}.", table.caption, *table.notes)))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', table.name)}}}",
            f"\\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_terminal(table: Table, width: int = 140, label_width: int = 34) -> str:
    """Plain text no wider than ``width``: columns that do not fit go into further blocks under the same row labels.

    The best values carry a star. The first column labels the rows.
    """
    mark = table.best()
    text = [
        [cell + ("*" if (i, j) in mark else " ") for j, cell in enumerate(row)]
        for i, row in enumerate(cells(table, compact=True))
    ]
    columns = [
        _terminal_column(column, [row[j] for row in text], right=_is_right(table.frame, column))
        for j, column in enumerate(table.columns)
    ]
    labels = [_shorten(row[0].strip(), label_width) for row in text]
    wide = max([len(label) for label in labels], default=0)
    blocks: list[list[list[str]]] = [[]]
    room = width - wide
    for index, lines in enumerate(columns[1:], start=1):
        rest = sum(len(other[0]) + 2 for other in columns[index:])
        together = table.columns[index].opens_block and room < rest <= width - wide
        if blocks[-1] and (together or room < len(lines[0]) + 2):
            blocks.append([])
            room = width - wide
        blocks[-1].append(lines)
        room -= len(lines[0]) + 2
    return "\n\n".join(_block(labels, wide, block) for block in blocks if block)


def number(value: float, decimals: int, *, tiny: bool = True) -> str:
    """A number for reading; very large and, with ``tiny``, very small ones with an exponent."""
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else str(value)
    if value != 0 and (abs(value) >= 1e6 or (tiny and abs(value) < 0.5 * 10.0**-decimals and abs(value) < 1e-4)):
        return f"{value:.2e}"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _column(table: Table, column: Column, compact: bool) -> list[str]:
    values = table.frame[column.key]
    if not pd.api.types.is_numeric_dtype(values):
        return [MISSING if value is None or value != value else str(value) for value in values]
    means, errors = table.numbers(column)
    places = table.decimals(column, 1 if compact else 2)
    sign = "±" if compact else " ± "
    return [
        number(mean, places, tiny=math.isnan(error))
        + ("" if math.isnan(error) else f"{sign}{number(error, places, tiny=False)}")
        for mean, error in zip(means, errors, strict=True)
    ]


def _is_right(frame: pd.DataFrame, column: Column) -> bool:
    return column.right or bool(pd.api.types.is_numeric_dtype(frame[column.key]))


def _terminal_column(column: Column, body: Sequence[str], *, right: bool) -> list[str]:
    """Header and body lines, padded to one width; the header wrapped, so that it is hardly wider than the body."""
    wide = max([len(cell) for cell in body], default=0)
    header = textwrap.wrap(column.short or column.header, max(wide - 1, 8), break_long_words=False) or [""]
    if column.arrow:
        header[-1] += column.arrow
    wide = max([wide, *(len(line) + 1 for line in header)])
    return _padded(header, body, wide, right=right)


def _padded(header: Sequence[str], body: Sequence[str], wide: int, top: int = 4, *, right: bool) -> list[str]:
    """``top`` header lines (empty ones above), then the body, all aligned to one side."""
    lines = list(header)
    if len(lines) > top:
        lines = [*lines[: top - 1], " ".join(lines[top - 1 :])]
        wide = max(wide, len(lines[-1]) + 1)
    whole = [*[""] * (top - len(lines)), *(line + " " for line in lines), *body]
    return [line.rjust(wide) if right else line.ljust(wide) for line in whole]


def _block(labels: Sequence[str], wide: int, columns: Sequence[Sequence[str]], top: int = 4) -> str:
    left = [""] * top + list(labels)
    lines = [
        (label.ljust(wide) + "  " + "  ".join(column[row] for column in columns)).rstrip() for row, label in enumerate(left)
    ]
    body = max(len(line) for line in lines)
    head = [line for line in lines[:top] if line.strip()]
    return "\n".join([*head, "-" * body, *lines[top:]])


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    # An underscore inside a word is none of Markdown's marks.
    return re.sub(r"([\\|*`<>\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text.replace("\n", " "))


def _latex_cell(text: str) -> str:
    return re.sub(r"^-(?=\d)", "$-$", _escape_latex(text))


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in text)
