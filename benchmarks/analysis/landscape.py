"""The ground of a picture of paths: a problem's landscape, and the paths of its runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.sections import Section
from benchmarks.catalog import problem_class
from benchmarks.errors import UserError
from benchmarks.records.schema import OF_PROBLEM, Floats, Run


@dataclass(frozen=True)
class Ground:
    """A landscape in numbers, see ``contract.Landscape``."""

    axes: tuple[str, str]
    places: Floats
    losses: Floats
    front: Floats

    @property
    def levels(self) -> Floats:
        """Losses to draw lines of equal loss at, as many places between any two."""
        return np.quantile(self.losses, np.linspace(0.03, 0.97, 9))

    @property
    def columns(self) -> list[str]:
        """Of a trajectory: where a replica is."""
        return [OF_PROBLEM + axis for axis in self.axes]

    def run_of(self, section: Section, method: str) -> Run | None:
        """The method's run of the lowest seed that has a path; a finished one if there is any."""
        runs = section.finished(method) or [run for (name, _), run in sorted(section.runs.items()) if name == method]
        usable = [run for run in runs if set(self.columns) <= set(run.trajectory.columns) and len(run.trajectory)]
        return usable[0] if usable else None

    def paths(self, run: Run) -> list[Floats]:
        """Places ``(T, 2)`` over the steps, one array per replica."""
        of_one_task = run.trajectory["task"] == run.record.tasks[0]
        table = run.trajectory.loc[of_one_task, ["step", "replica", *self.columns]].dropna()
        return [rows[self.columns].to_numpy(np.float64) for _, rows in table.sort_values("step").groupby("replica")]


def landscape_of(section: Section) -> Ground | None:
    """The landscape of a section's problem; None where it has none, or is no longer there."""
    try:
        found = problem_class(section.problem.name).landscape()
    except UserError:
        return None
    if found is None:
        return None
    return Ground(found.axes, found.places.numpy(), found.losses.numpy(), found.front.numpy())
