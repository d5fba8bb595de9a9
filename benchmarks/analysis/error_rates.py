"""How often the comparison errs: uniform weights against themselves, and against themselves with an effect planted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.analysis.paired import LEVEL, MIN_PAIRS, paired, sign_flip_test
from benchmarks.analysis.scores import Scores
from benchmarks.analysis.sections import uniform_label
from benchmarks.analysis.table import Column, Table
from benchmarks.records.schema import Floats

PAIRS = (3, 5, 6, 8, 10, 20)
EFFECTS = (0.5, 1.0, 1.5)
"""Planted effects, in standard deviations of the differences."""


def calibration_table(scored: Scores, repetitions: int = 1000, pairs: Sequence[int] = PAIRS) -> Table:
    """One row for each number of pairs. Raises ValueError where there are not twice as many finished uniform runs.

    A comparison draws 2n different seeds and pairs n of them with the others. Both sides come from one population, so every
    finding is false; with a shift of one side, every finding on the right side is true.
    """
    section, measured = scored.section, scored.measure
    values = scored.of("method", uniform_label(section) or "")[measured.column].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    feasible = [number for number in pairs if 2 * number <= len(values)]
    if not feasible:
        raise ValueError(f"{section.name}: expected at least {2 * min(pairs)} finished runs of uniform, found {len(values)}")
    shown = (
        Column("pairs", "pairs"),
        Column("false", "false positives %", decimals=1),
        Column("covered", "95 % interval covers 0, %", decimals=1),
        *(Column(f"power{effect}", f"power % at {effect:g} sd", decimals=0) for effect in EFFECTS),
    )
    caption = (
        f"{repetitions} comparisons of uniform with uniform for each number of pairs, resampled from {len(values)} runs on "
        f"{section.name}, so not independent; {measured.header}. False positives: p < {LEVEL:g} of the sign-flip test, "
        f"nominal {100 * LEVEL:g} %; power: found, and on the right side, when one side is shifted by so many standard "
        f"deviations of the differences. Below {MIN_PAIRS} pairs no p < {LEVEL:g} exists."
    )
    frame = pd.DataFrame([_row(values, number, repetitions) for number in feasible])
    return Table(f"{section.slug}_calibration", "Calibration", caption, shown, frame)


def _row(values: Floats, pairs: int, repetitions: int) -> dict[str, object]:
    draw = np.random.default_rng(pairs)
    spread = math.sqrt(2) * float(values.std(ddof=1))
    false, covered, found = 0, 0, dict.fromkeys(EFFECTS, 0)
    for _ in range(repetitions):
        chosen = values[draw.permutation(len(values))[: 2 * pairs]]
        gap = chosen[:pairs] - chosen[pairs:]
        result = paired(gap)
        false += result.p_value < LEVEL
        covered += result.low <= 0 <= result.high
        for effect in EFFECTS:
            shifted = gap - effect * spread
            found[effect] += sign_flip_test(shifted)[0] < LEVEL and shifted.mean() < 0
    tested = pairs >= MIN_PAIRS
    share = 100 / repetitions
    row: dict[str, object] = {"pairs": pairs, "method": f"{pairs} pairs", "covered": share * covered}
    row["false"] = share * false if tested else math.nan
    return row | {f"power{effect}": share * count if tested else math.nan for effect, count in found.items()}
