"""From a paper's records and published numbers to its report: the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from benchmarks.analysis.loading import load
from benchmarks.analysis.scores import scores
from benchmarks.analysis.sections import Section, sections
from benchmarks.errors import UserError
from benchmarks.papers.claims import Experiment, Measured
from benchmarks.papers.comparison import compare
from benchmarks.papers.experiments import experiment
from benchmarks.papers.published import papers
from benchmarks.papers.reproduction_page import markdown, terminal
from benchmarks.records.files import write

FILE = "reproduce.md"


def write_reproduction(paper: str, folder: Path, keys: Collection[str]) -> str:
    """Write ``reproduce.md`` into the folder and return what to print.

    folder: of the paper's suite; keys: of the runs that count. Raises UserError where runs are needed and none can be read,
    OSError if the file cannot be written.
    """
    found = experiment(paper)
    section = None if found is None else _section(found, folder, keys)
    measured = Measured((), ()) if found is None or section is None else found.measure(scores(section))
    comparisons = compare(papers()[paper], measured.ours, None if found is None else found.protocol)
    write(folder / FILE, markdown(paper, found, section, measured.checks, comparisons))
    return terminal(paper, found, section, measured.checks, comparisons)


def _section(found: Experiment, folder: Path, keys: Collection[str]) -> Section:
    """The runs of the experiment, which are comparable with each other."""
    sectioned, _ = sections(load(folder, keys).runs)
    if len(sectioned) != 1:
        raise UserError(f"{folder}: expected the runs of suite {found.suite} on one problem, found {len(sectioned)}")
    return sectioned[0]
