"""From a paper's records and published numbers to its report: the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.analysis.loading import load
from benchmarks.analysis.scores import scores
from benchmarks.analysis.sections import Section, sections
from benchmarks.errors import UserError
from benchmarks.papers.claims import Experiment
from benchmarks.papers.comparison import compare
from benchmarks.papers.experiments import experiments, suite_of
from benchmarks.papers.published import papers
from benchmarks.papers.reproduction_page import Outcome, markdown, picture_of, terminal
from benchmarks.records.files import write
from benchmarks.report.figures import style, timeline

FILE = "reproduce.md"


def write_reproduction(paper: str, folder: Path, keys: Collection[str]) -> str:
    """Write ``reproduce.md`` and its pictures into the folder and return what to print.

    folder: of the paper's suite; keys: of the runs that count. Raises UserError where runs are needed and none can be read,
    OSError if the file cannot be written.
    """
    outcomes = _outcomes(paper, folder, keys)
    _draw(folder, [section for outcome in outcomes for section in outcome.sections])
    ours = {each.experiment.protocol: each.measured.ours for each in outcomes}
    comparisons = compare(papers()[paper], ours)
    write(folder / FILE, markdown(paper, outcomes, comparisons))
    return terminal(paper, outcomes, comparisons)


def _outcomes(paper: str, folder: Path, keys: Collection[str]) -> list[Outcome]:
    """Of the experiments whose problem has runs. Raises UserError where none has."""
    found = experiments(paper)
    if not found:
        return []
    sectioned, _ = sections(load(folder, keys).runs)
    by_problem: dict[str, list[Section]] = {}
    for section in sectioned:
        by_problem.setdefault(section.problem.name, []).append(section)
    outcomes = [_outcome(each, by_problem[each.problem]) for each in found if each.problem in by_problem]
    if not outcomes:
        needed = " or ".join(each.problem for each in found)
        raise UserError(f"{folder}: expected the runs of suite {suite_of(paper)} on {needed}, found none")
    return outcomes


def _outcome(experiment: Experiment, found: Sequence[Section]) -> Outcome:
    return Outcome(experiment, tuple(found), experiment.measure({section.name: scores(section) for section in found}))


def _draw(folder: Path, found: Sequence[Section]) -> None:
    """A picture of each section whose methods logged what is inside them."""
    with style.settings():
        for section in found:
            figure = timeline.figure(section)
            if figure is not None:
                write(folder / picture_of(section), style.render(figure))
