"""The verdict: every method against uniform weights, paired by seed, with a test where the number of pairs allows one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.report.measure import by_seed, differences, measure, uniform_runs
from benchmarks.report.paired import LEAST_PAIRS, LEVEL, Paired, holm, paired, smallest_p, too_few
from benchmarks.report.sections import UNIFORM, Section
from benchmarks.report.statistics import mean_and_error
from benchmarks.report.table import ERROR, Column, Table

CHANGE = Column("change", "change", "lower", "change")
PAIRED = (
    CHANGE,
    Column("low", "95 % from", None, "from", decimals=2),
    Column("high", "to", None, "to", decimals=2),
    Column("improvement", "P(better)", "higher", "P(better)", decimals=2),
)
"""What a paired comparison shows."""
P_VALUE = Column("p_value", "p (Holm)", None, "p (Holm)", decimals=3)
EXPLAINED = (
    "Change: mean difference over pairs of the same seed ± standard error, negative: better; from, to: its 95 % bootstrap "
    "interval (percentile, over pairs), which is too narrow for few pairs, see the suite aa; P(better): share of pairs that "
    "are better, ties counting half."
)


def verdict_table(section: Section) -> Table | None:
    """One row for every method but uniform; None where there is nothing to compare with."""
    measured = measure(section)
    base = by_seed(measured, uniform_runs(section))
    methods = [label for label in section.methods if label.partition("[")[0] != UNIFORM]
    if not base or not methods:
        return None
    gaps = [differences(by_seed(measured, section.finished(label)), base) for label in methods]
    found = [paired(gap) for gap in gaps]
    corrected = holm([each.p_value if _testable(each, len(methods)) else math.nan for each in found])
    rows = [
        {"method": label, "pairs": each.pairs, **paired_row(each, gap), "p_value": p, "verdict": _verdict(each, p)}
        for label, each, gap, p in zip(methods, found, gaps, corrected, strict=True)
    ]
    tested = any(math.isfinite(p) for p in corrected)
    shown = (
        Column("method", "method"),
        Column("pairs", "pairs"),
        *PAIRED,
        *((P_VALUE,) if tested else ()),
        Column("verdict", "verdict"),
    )
    caption = f"{measured.header} minus that of uniform. {EXPLAINED} {_tests(found)}"
    return Table(f"{section.slug}_verdict", "Verdict: against uniform", caption, shown, pd.DataFrame(rows))


def paired_row(result: Paired, gap: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[str, object]:
    """The cells of ``PAIRED``."""
    _, error = mean_and_error(gap[np.isfinite(gap)])
    return {
        CHANGE.key: result.mean,
        CHANGE.key + ERROR: error,
        "low": result.low,
        "high": result.high,
        "improvement": result.improvement,
    }


def _testable(result: Paired, methods: int) -> bool:
    """Whether so many pairs can reach the level once p is corrected for as many methods."""
    return result.pairs >= LEAST_PAIRS and smallest_p(result.pairs) * methods < LEVEL


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
    made = [each for each in found if _testable(each, len(found))]
    texts = [
        f"p: {name}, Holm-corrected over the {len(found)} methods of this table, verdict at {LEVEL:g}."
        for name in dict.fromkeys(each.test for each in made)
    ]
    for pairs in sorted({each.pairs for each in found if not _testable(each, len(found))}):
        why = (
            too_few(pairs)
            or f"{pairs} pairs cannot reach p < {smallest_p(pairs) * len(found):.2g} over {len(found)} methods"
        )
        texts.append(f"No test: {why}; {_needed(len(found))} pairs could be tested.")
    return " ".join(texts)


def _needed(methods: int) -> int:
    """The fewest pairs with which one of so many methods can be found to differ."""
    return next(pairs for pairs in itertools.count(LEAST_PAIRS) if smallest_p(pairs) * methods < LEVEL)
