"""How a method or a task looks: the same in every picture, told apart without colour vision and in print."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib as mpl

import weighting

DASHES: tuple[Any, ...] = ("-", (0, (4, 1.4)), (0, (1.2, 1.0)), (0, (5, 1.2, 1.2, 1.2)))
# Okabe and Ito's colours without yellow, which is not seen on white; see https://jfly.uni-koeln.de/color/
_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _RED, _PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
_GREY = "#7F7F7F"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")


@dataclass(frozen=True)
class Style:
    """Colour, marker and line style of one method or task."""

    color: str
    marker: str
    dashes: Any

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot`` for the line alone."""
        return {"color": self.color, "linestyle": self.dashes}


SPREAD_COLOR = "#31688e"
"""Of many tasks together."""
MEDIAN, HALF, MOST = "median over tasks", "middle half of the tasks", "middle nine tenths"
COMMON = "all tasks alike"
SPREAD_OPACITY = {HALF: 0.35, MOST: 0.2}
"""Of the bands; the first lies on the second."""
STL_STYLE = Style(_GREY, "", (0, (1, 1.6)))
# Controls in black and grey, so that the adaptive methods have the colours.
_KNOWN = {
    "uniform": Style(_BLACK, "o", DASHES[0]),
    "static": Style(_GREY, "s", DASHES[1]),
    "token_mean": Style(_GREY, "d", DASHES[2]),
    "random": Style(_GREY, "X", DASHES[0]),
    "gradnorm": Style(_SKY, "^", DASHES[0]),
    "dwa": Style(_ORANGE, "D", DASHES[0]),
    "uncertainty": Style(_PURPLE, "v", DASHES[0]),
    "famo": Style(_GREEN, "P", DASHES[0]),
    "coba": Style(_RED, "*", DASHES[0]),
}
_FURTHER = tuple(
    Style(color, _MARKERS[(index * 5) % len(_MARKERS)], dashes)
    for index, (dashes, color) in enumerate(
        [(DASHES[0], _BLUE), *product(DASHES[1:], (_BLUE, _RED, _GREEN, _ORANGE, _PURPLE, _SKY, _BLACK))]
    )
)


def method_styles(labels: Iterable[str]) -> dict[str, Style]:
    """Label -> style. Listed methods have their own; another label gets what its hash points at, or the next one free.

    Pass all labels of a report at once, so that they are the same in all its pictures. More labels than styles share some.
    """
    styles: dict[str, Style] = {}
    taken: set[Style] = set()
    for label in sorted(set(labels)):
        if label in _KNOWN:
            styles[label] = _KNOWN[label]
            continue
        family = _variants(label)
        start = int(hashlib.sha256(label.encode()).hexdigest(), 16)
        choices = [family[(start + step) % len(family)] for step in range(len(family))]
        free = [style for style in choices if style not in taken] or choices
        styles[label] = next((style for style in free if not any(_alike(style, other) for other in taken)), free[0])
        taken.add(styles[label])
    return styles


def _alike(one: Style, other: Style) -> bool:
    return one.color == other.color and (one.marker == other.marker or one.dashes == other.dashes)


def _variants(label: str) -> tuple[Style, ...]:
    """The styles a label without one of its own may have: in its method's colour where it is a setting or variant of one."""
    name = weighting.family(re.split(r"[^\w]", label, maxsplit=1)[0])
    if name not in _KNOWN:
        return _FURTHER
    own = _KNOWN[name]
    others = [dashes for dashes in DASHES if dashes != own.dashes]
    return tuple(Style(own.color, marker, dashes) for marker in _MARKERS[:4] for dashes in others)


def task_styles(tasks: Sequence[str]) -> dict[str, Style]:
    """Task -> style: steps along viridis, which no method's colour is, with changing line styles for neighbours."""
    # The bright end of the map is not seen on white.
    colors = mpl.colormaps["viridis"]([0.87 * index / max(1, len(tasks) - 1) for index in range(len(tasks))])
    return {
        task: Style(mpl.colors.to_hex(color), "", DASHES[index % 3])
        for index, (task, color) in enumerate(zip(tasks, colors, strict=True))
    }
