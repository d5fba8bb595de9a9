"""What a method sees, decides and does, on one axis of steps: a column per method, a row per number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.analysis.curves import TaskPanel, probe_columns, rise_panels, task_panels
from benchmarks.analysis.sections import Section
from benchmarks.report.figures import by_task, style
from benchmarks.report.palette import Style, task_styles

COLUMNS = 3
"""Methods side by side; more begin below."""
ROW_HEIGHT = 1.05
CAPTION = (
    "For each method from above: how far each task's validation loss is above its lowest, its weight, and the numbers "
    f"inside it of which weights are made, {by_task.AVERAGED}: mean over seeds (and replicas), band ± standard error over "
    "seeds. Panels of one number share their axis unless they say otherwise."
)


def figure(section: Section) -> Figure | None:
    """The methods of a section that log numbers inside themselves; None where there are none."""
    inside = [found for column in probe_columns(section) for found in task_panels(section, column, by_task.WINDOWS)]
    shown = [method for method in section.methods if any(found.method == method for found in inside)]
    if not shown:
        return None
    panels = [*rise_panels(section, shown, style.POINTS), *task_panels(section, "weight", by_task.WINDOWS), *inside]
    stacks = [[found for found in panels if found.method == method] for method in shown]
    made = _draw(section, stacks, task_styles(section.tasks))
    with_common = any(found.common for found in panels)
    by_task.legend(made, section.tasks, task_styles(section.tasks), with_common=with_common)
    return made


def _draw(section: Section, stacks: Sequence[Sequence[TaskPanel]], styles: Mapping[str, Style]) -> Figure:
    columns = min(COLUMNS, len(stacks))
    blocks = [stacks[start : start + columns] for start in range(0, len(stacks), columns)]
    depths = [max(map(len, block)) for block in blocks]
    width = style.DOUBLE if columns > 1 else style.SINGLE
    made = Figure(figsize=(width, ROW_HEIGHT * sum(depths) + 0.55), layout="constrained")
    FigureCanvasAgg(made)
    for number, block in enumerate(blocks):
        for column, panels in enumerate(block):
            for row, found in enumerate(panels):
                place = (sum(depths[:number]) + row) * columns + column + 1
                axis = made.add_subplot(sum(depths), columns, place, label=f"{found.name}, {found.method}")
                by_task.panel(axis, found, section.tasks, styles)
                _label(axis, found, section, by_task.titled(section, found.method) if row == 0 else "")
                axis.set_xlabel("step" if row == len(panels) - 1 else "")
    return made


def _label(axis: Axes, found: TaskPanel, section: Section, title: str) -> None:
    style.values_axis(axis, found.scale)
    style.steps_axis(axis, section.training.steps)
    style.title(axis, title, "own scale" if found.own_scale else "")
    axis.set_ylabel(found.name)
