"""The verdict: every method against uniform weights, paired by seed, with a test where the number of pairs allows one.

Where a suite tunes, there are more: all at their best settings, against uniform weights and against constant ones that were
searched for by as many trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.analysis.comparable import STATIC, UNIFORM
from benchmarks.analysis.delta_m import differences
from benchmarks.analysis.paired import LEVEL
from benchmarks.analysis.scores import Scores
from benchmarks.analysis.sections import plain_label
from benchmarks.analysis.statistics import mean_and_error
from benchmarks.analysis.table import ERROR, Column, Table
from benchmarks.analysis.verdict import Judged, judge, pairs_needed
from benchmarks.records.schema import Floats

VERDICT = (Column("verdict", "verdict"), Column("pairs", "pairs"))
CHANGE = Column("change", "change", "lower", "change")
RANGE = (
    Column("low", "95 % from", None, "from", decimals=2),
    Column("high", "to", None, "to", decimals=2),
    Column("improvement", "P(better)", "higher", "P(better)", decimals=2),
)
P_VALUE = Column("p_value", "p (Holm)", None, "p (Holm)", decimals=3)


@dataclass(frozen=True)
class JudgedRows:
    """The paired comparisons of one table, corrected for their number."""

    rows: tuple[dict[str, object], ...]
    """The cells of ``columns``, one row for each comparison."""
    columns: tuple[Column, ...]
    caption: str


def verdict_tables(scored: Scores) -> tuple[Table, ...]:
    """Every method but uniform against it: at the defaults, then tuned, then tuned against tuned constants.

    Without those that nothing was trained for.
    """
    section, measured, best = scored.section, scored.measure, scored.tuned
    default = {label: scored.by_seed("method", label, measured) for label in section.methods}
    tuned = {label: values for label in section.methods if (values := scored.by_seed("tuned", label, best))}
    tables = [
        _table(
            default,
            plain_label(section, UNIFORM),
            "Verdict: against uniform",
            f"{section.slug}_verdict",
            f"{measured.header} (against {measured.against}) minus that of uniform",
        )
    ]
    chosen = "both at the setting that was chosen for them"
    for rival, suffix in ((UNIFORM, ""), (STATIC, "_static")):
        tables.append(
            _table(
                tuned,
                plain_label(section, rival),
                f"Verdict: tuned, against tuned {rival}",
                f"{section.slug}_verdict_tuned{suffix}",
                f"{best.header} (against {best.against}) minus that of {rival}, {chosen}",
            )
        )
    return tuple(table for table in tables if table is not None)


def judged_rows(gaps: Sequence[Floats], what: str) -> JudgedRows:
    """Compare by the differences of pairs.

    gaps: for each comparison ``(n,)`` differences of pairs of the same seed, negative: better; what: the difference in
    words, as it stands after "Change:".
    """
    found = judge(gaps)
    rows = tuple(_row(each, gap) for each, gap in zip(found, gaps, strict=True))
    tested = any(math.isfinite(each.p_value) for each in found)
    caption = (
        f"Change: {what}; mean difference over pairs of the same seed ± standard error, negative: better. From, to: its "
        "95 % bootstrap interval (percentile, over pairs), which is too narrow for few pairs, see the suite aa. P(better): "
        f"share of pairs that are better, ties counting half. {_tests(found)}"
    )
    return JudgedRows(rows, (*VERDICT, CHANGE, *RANGE, *((P_VALUE,) if tested else ())), caption)


def _table(values: Mapping[str, Mapping[int, float]], rival: str | None, title: str, name: str, what: str) -> Table | None:
    """values: label -> seed -> measure. None where there is nothing to compare, or nothing to compare with."""
    base = values.get(rival or "", {})
    methods = [label for label in values if label != rival]
    if not base or not methods:
        return None
    judged = judged_rows([differences(values[label], base) for label in methods], what)
    rows = [{"method": label, **row} for label, row in zip(methods, judged.rows, strict=True)]
    return Table(name, title, judged.caption, (Column("method", "method"), *judged.columns), pd.DataFrame(rows))


def _row(judged: Judged, gap: Floats) -> dict[str, object]:
    result = judged.found
    _, error = mean_and_error(gap[np.isfinite(gap)])
    return {
        "verdict": judged.words,
        "pairs": result.pairs,
        CHANGE.key: result.mean,
        CHANGE.key + ERROR: error,
        "low": result.low,
        "high": result.high,
        "improvement": result.improvement,
        P_VALUE.key: judged.p_value,
    }


def _tests(found: Sequence[Judged]) -> str:
    """Which test was made, and why not where none was."""
    number = max((each.comparisons for each in found), default=0)
    names = dict.fromkeys(each.test for each in found if math.isfinite(each.p_value))
    texts = [f"p: {name}, Holm-corrected over the {number} methods of this table, verdict at {LEVEL:g}." for name in names]
    untested = [each for each in found if math.isnan(each.p_value) and each.verdict != "identical"]
    reasons = dict.fromkeys(each.test for each in sorted(untested, key=lambda each: each.found.pairs))
    texts += [f"No test: {reason}; {pairs_needed(number)} pairs could be tested." for reason in reasons]
    if any(each.verdict == "identical" for each in found):
        texts.append("Identical: equal to the last digit on every seed.")
    return " ".join(texts)
