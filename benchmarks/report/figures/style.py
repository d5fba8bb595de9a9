"""What all pictures share: size, type, layout, and the bytes that are the same every time."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from benchmarks.analysis.scales import Scale

SINGLE, DOUBLE = 3.4, 7.0
"""Width of one and of two paper columns, inches."""
COLOURS = 256
"""Of a picture: as many as one byte can tell apart."""
POINTS = 80
"""Points of a curve that a panel can still show."""
SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    # No panel has ticks above it, which titles would otherwise look for, again and again.
    "axes.titley": 1.0,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "ytick.minor.size": 1.5,
    "ytick.minor.width": 0.4,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "figure.dpi": 200,
    # Names of methods and tasks are the user's, and a dollar sign in them is a dollar sign.
    "text.parse_math": False,
}


def grid(panels: int, *, height: float = 1.45, square: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with room for some panels: one paper column for one panel, two for more; unused places stay empty."""
    columns = min(panels, 3)
    if panels == 4 or (panels > 6 and -panels % 4 <= -panels % 3):
        columns = min(panels, 4)
    rows = math.ceil(panels / columns)
    width = SINGLE if columns == 1 else DOUBLE
    if square:
        columns = max(columns, 2)
        height = width / columns
    elif columns < 3:
        height = 1.9
    figure = Figure(figsize=(width, rows * height + 0.45), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(panels)]
    return figure, axes


def edges(axes: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    """Axis labels at the left and at the bottom only, where panels are alike."""
    for index, axis in enumerate(axes):
        place = axis.get_subplotspec()
        columns = 1 if place is None else place.get_gridspec().ncols
        if index % columns == 0:
            axis.set_ylabel(ylabel)
        if index + columns >= len(axes):
            axis.set_xlabel(xlabel)


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend for all panels, below them, in as many columns as its labels leave room for."""
    letters = figure.get_figwidth() * 72 / (7 * 0.58)
    wide = max(len(label) for label in labels) + 7
    columns = max(1, min(len(labels), int(letters // wide)))
    # Rows of equal length look better than a full one and a rest.
    rows = math.ceil(len(labels) / columns)
    columns = math.ceil(len(labels) / rows)
    # Beyond four rows the legend would take the panels' room.
    figure.set_figheight(figure.get_figheight() + 0.15 * max(0, rows - 4))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2, borderaxespad=0.2)


def steps_axis(axis: Axes, total: int) -> None:
    """The whole run, whether or not its curves reach the end; few round ticks, thousands as k."""
    axis.set_xlim(-0.03 * total, 1.03 * total)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"))


def values_axis(axis: Axes, shown: Scale | None) -> None:
    """The y axis, linear or logarithmic."""
    if shown is None:
        return
    if shown.logarithmic:
        axis.set_yscale("log")
        few = shown.high / shown.low < 160
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=6))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.set_ylim(shown.low, shown.high)


def title(axis: Axes, text: str, remark: str = "") -> None:
    """A panel's title, and under it a remark on what the panel does not show; inside, it would cover curves."""
    place = axis.get_subplotspec()
    narrow = place is not None and place.get_gridspec().ncols > 3
    wide = 22 if narrow else 34
    name, bracket, settings = text.partition("[")
    parts = [name, bracket + settings] if bracket and len(text) > wide else [text]
    parts += [f"[{remark}]"] if remark else []
    axis.set_title("\n".join(line for part in parts for line in textwrap.wrap(part, wide)))


def render(figure: Figure) -> bytes:
    """The PNG, the same for the same figure. Call under ``settings``.

    It has 256 colours, each at most a shade from those that were drawn, and a third of the size.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        # Saving would lay out too, and draw once to no avail.
        engine.execute(figure)
        figure.set_layout_engine(None)
    drawn, png = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="rgba")
    picture = Image.frombytes("RGBA", figure.canvas.get_width_height(), drawn.getvalue()).convert("RGB")
    few = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(png, format="png", optimize=True, dpi=(mpl.rcParams["figure.dpi"],) * 2)
    return png.getvalue()


@contextmanager
def settings() -> Iterator[None]:
    """Make and render figures inside: they come out the same whatever the caller has set matplotlib to."""
    with mpl.rc_context():
        mpl.rcdefaults()
        parameters: Any = mpl.rcParams
        parameters.update(SETTINGS)
        yield
