"""Numbers inside the methods over the steps: one panel per method and number, one line per task."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.analysis.curves import probe_columns, task_panels
from benchmarks.analysis.sections import Section
from benchmarks.report.figures import by_task

CAPTION = (
    f"Numbers inside the methods, of which the weights of each step are made, {by_task.AVERAGED}: mean over seeds (and "
    "replicas), band ± standard error over seeds. Panels of one number share their axis unless they say otherwise."
)


def figure(section: Section) -> Figure | None:
    """All methods of a section that have such numbers, one number after the other; None if none was logged."""
    panels = [found for column in probe_columns(section) for found in task_panels(section, column, by_task.WINDOWS)]
    titles = [f"{found.name}, {by_task.titled(section, found.method)}" for found in panels]
    return by_task.draw(section, panels, titles, "")
