"""CoBa: the tasks converge evenly, at small cost.

Source    Gong et al., CoBa, EMNLP 2024, arXiv:2410.06741, abstract. The paper's tables could not be read.
"""

from __future__ import annotations

from benchmarks.analysis.scores import PRICE, RELATIVE, SPREAD, Scores
from benchmarks.papers.claims import Experiment, Measured, below, means

RIVALS = ("uniform", "gradnorm", "lbtw", "famo")
"""The paper's that the suite has."""
ADAPTIVE = RIVALS[1:]
"""Equal weights cost nothing, so that no method can be cheaper."""


def measure(scored: Scores) -> Measured:
    """Spread, price and cost of all, and CoBa's against the others'."""
    return Measured(
        means(scored, (*RIVALS, "coba"), [SPREAD, PRICE, RELATIVE]),
        (
            *below(scored, SPREAD, "coba", RIVALS, "CoBa's tasks converge more evenly than under {rival}."),
            *below(scored, PRICE, "coba", RIVALS, "One checkpoint costs CoBa's tasks less than under {rival}."),
            *below(scored, RELATIVE, "coba", ADAPTIVE, "A step of CoBa costs less than one of {rival}."),
        ),
    )


EXPERIMENT = Experiment(
    suite="reproduce_coba",
    protocol="coba_code_lm",
    weighters=(*RIVALS, "static", "token_mean", "coba"),
    measure=measure,
    departures=(
        "A small model is trained from scratch on code in five languages; the paper fine-tunes large ones on its own data.",
        "What counts as even (convergence spread, price of one checkpoint) is this project's measure.",
        "The paper also drives GradNorm, LBTW and FAMO with validation losses (the suite val_feedback does) and has "
        "MetaWeighting, which is not among the methods here.",
        "Seconds depend on what else the machine does; they are relative to equal weights on the same seed, where the two "
        "runs were trained together.",
    ),
)
