"""Weights over the steps: one panel per method, one line per task."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.analysis.curves import task_panels
from benchmarks.analysis.sections import Section
from benchmarks.report.figures import by_task

CAPTION = (
    f"Coefficients of the raw losses, {by_task.AVERAGED}: mean over "
    "seeds (and replicas), band ± standard error over seeds. Panels share their axis unless they say otherwise."
)


def figure(section: Section) -> Figure | None:
    """All methods of a section, or None if no weight was logged."""
    panels = task_panels(section, "weight", by_task.WINDOWS)
    titles = [by_task.titled(section, found.method) for found in panels]
    return by_task.draw(section, panels, titles, "weight")
