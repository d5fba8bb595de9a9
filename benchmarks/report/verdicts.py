"""The verdict: every method against uniform weights, paired by seed, with a test where the number of pairs allows one.

Where a suite tunes, there are two: all at their defaults, and all at their best settings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from benchmarks.analysis.delta_m import by_seed, differences, measure
from benchmarks.analysis.paired import LEAST_PAIRS, LEVEL, Paired, holm, paired, smallest_p, too_few
from benchmarks.analysis.sections import UNIFORM, Section
from benchmarks.analysis.statistics import Floats, mean_and_error
from benchmarks.report.table import ERROR, Column, Table

VERDICT = (Column("verdict", "verdict"), Column("pairs", "pairs"))
CHANGE = Column("change", "change", "lower", "change")
RANGE = (
    Column("low", "95 % from", None, "from", decimals=2),
    Column("high", "to", None, "to", decimals=2),
    Column("improvement", "P(better)", "higher", "P(better)", decimals=2),
)
P_VALUE = Column("p_value", "p (Holm)", None, "p (Holm)", decimals=3)


@dataclass(frozen=True)
class Judged:
    """The paired comparisons of one table, corrected for their number."""

    rows: tuple[dict[str, object], ...]
    """The cells of ``columns``, one row for each comparison."""
    columns: tuple[Column, ...]
    caption: str


def verdict_tables(section: Section) -> tuple[Table, ...]:
    """Every method but uniform against it: at the defaults, then tuned; without those that nothing was trained for."""
    measured = measure(section)
    default = {label: by_seed(measured, section.finished(label)) for label in section.methods}
    tuned = {label: by_seed(measured, section.of_role("tuned", label)) for label in section.methods}
    tables = (
        _table(default, "Verdict: against uniform", f"{section.slug}_verdict", f"{measured.header} minus that of uniform"),
        _table(
            {label: values for label, values in tuned.items() if values},
            "Verdict: tuned, against tuned uniform",
            f"{section.slug}_verdict_tuned",
            f"{measured.header} minus that of uniform, both at the setting that was chosen for them",
        ),
    )
    return tuple(table for table in tables if table is not None)


def judge(gaps: Sequence[Floats], what: str) -> Judged:
    """Compare by the differences of pairs.

    gaps: for each comparison ``(n,)`` differences of pairs of the same seed, negative: better; what: the difference in
    words, as it stands after "Change:".
    """
    found = [paired(gap) for gap in gaps]
    corrected = holm([each.p_value if _testable(each, len(gaps)) else math.nan for each in found])
    rows = tuple(
        {**_row(each, gap), "p_value": p, "verdict": _verdict(each, p)}
        for each, gap, p in zip(found, gaps, corrected, strict=True)
    )
    tested = any(math.isfinite(p) for p in corrected)
    caption = (
        f"Change: {what}; mean difference over pairs of the same seed ± standard error, negative: better. From, to: its "
        "95 % bootstrap interval (percentile, over pairs), which is too narrow for few pairs, see the suite aa. P(better): "
        f"share of pairs that are better, ties counting half. {_tests(found)}"
    )
    return Judged(rows, (*VERDICT, CHANGE, *RANGE, *((P_VALUE,) if tested else ())), caption)


def _table(values: Mapping[str, Mapping[int, float]], title: str, name: str, what: str) -> Table | None:
    """values: label -> seed -> measure. None where there is nothing to compare, or nothing to compare with."""
    base = next((own for label, own in values.items() if label.partition("[")[0] == UNIFORM), {})
    methods = [label for label in values if label.partition("[")[0] != UNIFORM]
    if not base or not methods:
        return None
    judged = judge([differences(values[label], base) for label in methods], what)
    rows = [{"method": label, **row} for label, row in zip(methods, judged.rows, strict=True)]
    return Table(name, title, judged.caption, (Column("method", "method"), *judged.columns), pd.DataFrame(rows))


def _row(result: Paired, gap: Floats) -> dict[str, object]:
    _, error = mean_and_error(gap)
    return {
        "pairs": result.pairs,
        CHANGE.key: result.mean,
        CHANGE.key + ERROR: error,
        "low": result.low,
        "high": result.high,
        "improvement": result.improvement,
    }


def _testable(result: Paired, comparisons: int) -> bool:
    """Whether so many pairs can reach the level once p is corrected for as many comparisons."""
    return result.pairs >= LEAST_PAIRS and smallest_p(result.pairs) * comparisons < LEVEL


def _verdict(result: Paired, p_value: float) -> str:
    if result.pairs == 0:
        return "no pairs"
    if math.isnan(p_value):
        better = round(result.improvement * result.pairs, 1)
        return f"{better:g} of {result.pairs} better; too few to test"
    if p_value >= LEVEL:
        return "no difference seen"
    return "better" if result.mean < 0 else "worse"


def _tests(found: Sequence[Paired]) -> str:
    """Which test was made, and why not where none was."""
    number = len(found)
    made = [each for each in found if _testable(each, number)]
    texts = [
        f"p: {name}, Holm-corrected over the {number} methods of this table, verdict at {LEVEL:g}."
        for name in dict.fromkeys(each.test for each in made)
    ]
    for pairs in sorted({each.pairs for each in found if not _testable(each, number)}):
        why = too_few(pairs) or f"{pairs} pairs cannot reach p < {smallest_p(pairs) * number:.2g} over {number} methods"
        texts.append(f"No test: {why}; {_needed(number)} pairs could be tested.")
    return " ".join(texts)


def _needed(comparisons: int) -> int:
    """The fewest pairs with which one of so many methods can be found to differ."""
    return next(pairs for pairs in itertools.count(LEAST_PAIRS) if smallest_p(pairs) * comparisons < LEVEL)
