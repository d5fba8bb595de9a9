"""CoBa: the tasks converge evenly, at small cost.

Source    Gong et al., CoBa, EMNLP 2024, arXiv:2410.06741, abstract. The paper's tables could not be read.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.report.per_run import PRICE, SECONDS, SPREAD, per_run
from benchmarks.report.sections import Section
from benchmarks.reproduce.base import Experiment, Measured, below, label_of, means

RELATIVE = "relative_seconds"
RIVALS = ("uniform", "gradnorm", "lbtw", "famo")
"""The paper's that the suite has."""
ADAPTIVE = RIVALS[1:]
"""Equal weights cost nothing, so that no method can be cheaper."""


def measure(section: Section) -> Measured:
    """Spread, price and cost of all, and CoBa's against the others'."""
    frame, _ = per_run(section)
    frame = frame.assign(**{RELATIVE: _relative_seconds(section, frame)})
    return Measured(
        means(section, frame, (*RIVALS, "coba"), [SPREAD, PRICE, RELATIVE]),
        (
            *below(section, frame, SPREAD, "coba", RIVALS, "CoBa's tasks converge more evenly than under {rival}."),
            *below(section, frame, PRICE, "coba", RIVALS, "One checkpoint costs CoBa's tasks less than under {rival}."),
            *below(section, frame, RELATIVE, "coba", ADAPTIVE, "A step of CoBa costs less than one of {rival}."),
        ),
    )


def _relative_seconds(section: Section, frame: pd.DataFrame) -> pd.Series:
    """Seconds per step of each run over those of equal weights on the same seed; NaN where there are none."""
    uniform = frame[frame["method"] == label_of(section, "uniform")].set_index("seed")[SECONDS]
    base = frame["seed"].map(uniform)
    return pd.Series(frame[SECONDS].to_numpy(np.float64) / base.to_numpy(np.float64), index=frame.index)


EXPERIMENT = Experiment(
    suite="reproduce_coba",
    protocol="coba_code_lm",
    weighters=(*RIVALS, "coba"),
    measure=measure,
    departures=(
        "A small model is trained from scratch on code in five languages; the paper fine-tunes large ones on its own data.",
        "What counts as even (convergence spread, price of one checkpoint) is this project's measure.",
        "The paper also drives GradNorm, LBTW and FAMO with validation losses (the suite val_feedback does) and has "
        "MetaWeighting, which is not among the methods here.",
        "Seconds depend on what else the machine does; they are relative to equal weights on the same seed.",
    ),
)
