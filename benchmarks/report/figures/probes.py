"""Numbers inside the methods over the steps: one panel per method and number, one line per task."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.analysis.loading import probes_of
from benchmarks.analysis.scales import off_scale, scale
from benchmarks.analysis.sections import Section
from benchmarks.analysis.spread import alike
from benchmarks.records.schema import OF_METHOD
from benchmarks.report.figures import by_task, style
from benchmarks.report.palette import task_styles

CAPTION = (
    f"Numbers inside the methods, of which the weights of each step are made, {by_task.AVERAGED}: mean over seeds (and "
    "replicas), band ± standard error over seeds. Panels of one number share their axis unless they say otherwise."
)


Curves = dict[tuple[str, str], by_task.Curves]
"""(Column, method) -> its curves."""


def figure(section: Section) -> Figure | None:
    """All methods of a section that have such numbers, or None if none was logged."""
    curves = _curves(section)
    if not curves:
        return None
    made, axes = style.grid(len(curves), height=1.4)
    looks = task_styles(section.tasks)
    for axis, ((column, method), found) in zip(axes, curves.items(), strict=True):
        if alike(found[1][:, 0]):
            by_task.common(axis, found)
        else:
            by_task.panel(axis, found, section.tasks, looks)
        means = {name: values[:, 0] for (other, name), (_, values) in curves.items() if other == column}
        own = off_scale(means)
        shared = [means[method]] if method in own else [values for name, values in means.items() if name not in own]
        style.values_axis(axis, scale(shared, shares=True))
        style.steps_axis(axis, section.training.steps)
        title = f"{column.removeprefix(OF_METHOD)}, {by_task.titled(section, method)}"
        style.title(axis, title, "own scale" if method in own else "")
    style.edges(axes, "step", "")
    by_task.legend(made, section.tasks, looks, with_common=any(alike(values[:, 0]) for _, values in curves.values()))
    return made


def _curves(section: Section) -> Curves:
    """Methods in the section's order, one number after the other."""
    found: Curves = {}
    for method in section.methods:
        runs = by_task.shown_runs(section, method)
        for column in probes_of(runs):
            own = by_task.mean_curves(runs, column)
            if own is not None:
                found[column, method] = own
    columns = dict.fromkeys(column for column, _ in found)
    return {place: found[place] for column in columns for place in found if place[0] == column}
