"""Which papers there are, and what of each can be run here."""

from __future__ import annotations

from benchmarks.errors import UserError, unknown
from benchmarks.papers import coba, famo, gradnorm
from benchmarks.papers.claims import Experiment
from benchmarks.papers.published import papers

EXPERIMENTS: dict[str, tuple[Experiment, ...]] = {
    "famo": (famo.EXPERIMENT,),
    "gradnorm": (gradnorm.EXPERIMENT,),
    "coba": coba.EXPERIMENTS,
}
"""Those of one paper are one suite, see ``suite_of``."""


def suite_of(paper: str) -> str:
    """The suite, and the folder, of a paper's runs."""
    return f"reproduce_{paper}"


def names() -> list[str]:
    """All papers: those with experiments first."""
    return list(dict.fromkeys([*EXPERIMENTS, *papers()]))


def experiments(paper: str) -> tuple[Experiment, ...]:
    """What of the paper can be run here; nothing where only published numbers can be shown. Raises UserError."""
    if paper not in names():
        raise UserError(unknown("paper", paper, names()))
    return EXPERIMENTS.get(paper, ())
