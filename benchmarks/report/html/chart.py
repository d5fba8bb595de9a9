"""What all charts of the page are made of."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from benchmarks.records.schema import Floats, Steps
from benchmarks.report.html.plotly_style import Key

POINTS = 200
"""Of a curve: more could not be told apart on a screen."""


@dataclass(frozen=True)
class Chart:
    """A chart with what it says in words; ``figure`` is Plotly's JSON."""

    title: str
    caption: str
    keys: tuple[Key, ...]
    """The legend."""
    figure: dict[str, Any]


def layout(figure: go.Figure, x: str, y: str, hovermode: str = "closest") -> None:
    """The size and the axes of a chart."""
    figure.update_layout(
        template=None,
        xaxis={"title": {"text": text(x)}, "automargin": True},
        yaxis={"title": {"text": text(y)}, "automargin": True},
        hovermode=hovermode,
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        # Legends are part of the page: Plotly's own would take the charts' room on a phone.
        showlegend=False,
        height=340,
    )


def text(name: str) -> str:
    """A name as Plotly must be given it, which reads marks of HTML in names."""
    return html.escape(name, quote=False)


def numbers(values: Sequence[float] | Floats | Steps) -> list[float | None]:
    """Six digits, which no screen shows more of; None where there is no number."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
