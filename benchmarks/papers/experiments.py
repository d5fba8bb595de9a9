"""Which papers there are, and what of each can be run here."""

from __future__ import annotations

from benchmarks.errors import UserError, unknown
from benchmarks.papers import coba, famo, gradnorm
from benchmarks.papers.claims import Experiment
from benchmarks.papers.published import papers

EXPERIMENTS = {"famo": famo.EXPERIMENT, "gradnorm": gradnorm.EXPERIMENT, "coba": coba.EXPERIMENT}


def names() -> list[str]:
    """All papers: those with experiments first."""
    return list(dict.fromkeys([*EXPERIMENTS, *papers()]))


def experiment(paper: str) -> Experiment | None:
    """What of the paper can be run here; None where only published numbers can be shown. Raises UserError."""
    if paper not in names():
        raise UserError(unknown("paper", paper, names()))
    return EXPERIMENTS.get(paper)
