"""Weights over the steps: one panel per method, one line per task."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.analysis.scales import off_scale, scale
from benchmarks.analysis.sections import Section
from benchmarks.report.figures import by_task, style
from benchmarks.report.palette import task_styles

CAPTION = (
    f"Coefficients of the raw losses, {by_task.AVERAGED}: mean over "
    "seeds (and replicas), band ± standard error over seeds. Panels share their axis unless they say otherwise."
)


def figure(section: Section) -> Figure | None:
    """All methods of a section, or None if no weight was logged."""
    curves: dict[str, by_task.Curves] = {}
    for method in section.methods:
        found = by_task.mean_curves(by_task.shown_runs(section, method), "weight")
        if found is not None:
            curves[method] = found
    if not curves:
        return None
    made, axes = style.grid(len(curves), height=1.4)
    looks = task_styles(section.tasks)
    # One far-off method must not flatten the others: it gets a scale of its own.
    own = off_scale({method: values[:, 0] for method, (_, values) in curves.items()})
    common = [values[:, 0] for method, (_, values) in curves.items() if method not in own]
    for axis, (method, found) in zip(axes, curves.items(), strict=True):
        by_task.panel(axis, found, section.tasks, looks)
        style.values_axis(axis, scale([found[1][:, 0]] if method in own else common))
        style.steps_axis(axis, section.training.steps)
        style.title(axis, by_task.titled(section, method), "own scale" if method in own else "")
    style.edges(axes, "step", "weight")
    by_task.legend(made, section.tasks, looks)
    return made
