"""How a method or a task looks on the page: the palette's colours, dashes and markers, for Plotly and for the legends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.report.palette import DASHES, STL_STYLE, Style

_LINES = dict(zip(DASHES, ("", "9,4", "4,3", "9,3,3,3"), strict=True))
_DOTTED = "2,3"
# Plotly's name, and the outline of the same mark around (0, 0) for the legends.
_MARKS = {
    "o": ("circle", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"),
    "s": ("square", "M-3.6 -3.6H3.6V3.6H-3.6z"),
    "^": ("triangle-up", "M0 -4.6L4.3 3.5H-4.3z"),
    "v": ("triangle-down", "M0 4.6L4.3 -3.5H-4.3z"),
    "<": ("triangle-left", "M-4.6 0L3.5 -4.3V4.3z"),
    ">": ("triangle-right", "M4.6 0L-3.5 -4.3V4.3z"),
    "D": ("diamond", "M0 -4.8L4.8 0L0 4.8L-4.8 0z"),
    "d": ("diamond-tall", "M0 -5L3 0L0 5L-3 0z"),
    "P": ("cross", "M-1.5 -4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5z"),
    "X": ("x", "M-4.2 -2.1L-2.1 -4.2L0 -2.1L2.1 -4.2L4.2 -2.1L2.1 0L4.2 2.1L2.1 4.2L0 2.1L-2.1 4.2L-4.2 2.1L-2.1 0z"),
    "*": ("star", "M0 -5L1.2 -1.6L4.8 -1.5L1.9 .6L2.9 4L0 2L-2.9 4L-1.9 .6L-4.8 -1.5L-1.2 -1.6z"),
    "p": ("pentagon", "M0 -4.6L4.4 -1.4L2.7 3.7H-2.7L-4.4 -1.4z"),
    "h": ("hexagon", "M0 -4.6L4 -2.3V2.3L0 4.6L-4 2.3V-2.3z"),
}


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a name and a sample of its line, its mark or both."""

    name: str
    color: str
    line: str | None
    """Lengths of dashes and gaps in pixels, "" for a whole line, None for no line."""
    mark: str | None
    """Outline of the mark as an SVG path around (0, 0), None for no mark."""
    method: str | None = None
    """The method that hides it; None for what is always shown."""
    band: float | None = None
    """Opacity of a sample of a band; None for no band."""


def curve_key(name: str, style: Style, method: str | None) -> Key:
    """A line with the marks it carries, if any."""
    return Key(name, style.color, _dashes(style), _MARKS[style.marker][1] if style.marker else None, method)


def band_key(name: str, color: str, opacity: float) -> Key:
    """A band alone."""
    return Key(name, color, None, None, band=opacity)


def point_key(name: str, style: Style, method: str | None) -> Key:
    """A mark alone."""
    return Key(name, style.color, None, _MARKS[style.marker][1], method)


def line(style: Style) -> dict[str, Any]:
    """Plotly's ``line``."""
    pattern = _dashes(style)
    dash = ",".join(f"{length}px" for length in pattern.split(",")) if pattern else "solid"
    return {"color": style.color, "dash": dash, "width": 2}


def marker(style: Style, size: int) -> dict[str, Any]:
    """Plotly's ``marker``."""
    return {"color": style.color, "symbol": _MARKS[style.marker][0], "size": size}


def _dashes(style: Style) -> str:
    return _DOTTED if style == STL_STYLE else _LINES[style.dashes]
