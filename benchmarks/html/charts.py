"""The charts of the page, as Plotly figures: what the pictures show, with values under the pointer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go

from benchmarks.record import Run
from benchmarks.report.front import objectives
from benchmarks.report.loading import cube
from benchmarks.report.palette import DASHES as PALETTE_DASHES
from benchmarks.report.palette import STL_STYLE, Style, task_styles
from benchmarks.report.per_run import DELTA_METRICS
from benchmarks.report.sections import STL, Section
from benchmarks.report.statistics import Floats, band, windows
from benchmarks.report.table import ERROR
from benchmarks.report.tables import RELATIVE, SectionTables

POINTS = 200
"""Of a curve: more could not be told apart on a screen."""
DASHES = ("solid", "dash", "longdash", "dashdot")
SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
    "*": "star", "<": "triangle-left", ">": "triangle-right", "p": "pentagon", "h": "hexagon", "d": "diamond-tall",
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A chart with what it says in words; ``figure`` is Plotly's JSON."""

    title: str
    caption: str
    figure: dict[str, Any]


def section_charts(section: Section, tables: SectionTables, styles: Mapping[str, Style]) -> list[Chart]:
    """All charts of a problem that its records allow."""
    found = [*_losses(section, styles), *_weights(section), _cost(tables, styles), *_fronts(section, tables, styles)]
    return [chart for chart in found if chart is not None]


def _losses(section: Section, styles: Mapping[str, Style]) -> Iterator[Chart]:
    for place, task in enumerate(section.tasks):
        figure = go.Figure()
        single = [run for seed in section.seeds if (run := section.baseline(task, seed)) is not None]
        _curve(figure, STL, single, 0, STL_STYLE)
        for method in section.methods:
            _curve(figure, method, section.finished(method), place, styles[method])
        if figure.data:
            _layout(figure, "step", "validation loss", hovermode="x unified")
            figure.update_yaxes(range=_range(figure, section.training.steps))
            yield Chart(
                f"Validation loss: {task}",
                f"{section.name}: mean over seeds and replicas; the band is ± one standard error over seeds. "
                "The range is that after the first tenth of the run.",
                figure.to_plotly_json(),
            )


def _curve(figure: go.Figure, name: str, runs: Sequence[Run], place: int, look: Style) -> None:
    curves = [(steps, losses[:, :, place].mean(axis=1)) for steps, losses in (cube(run, "val_loss") for run in runs)]
    curves = [(steps, losses) for steps, losses in curves if len(steps)]
    if not curves:
        return
    shared = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    stacked = np.array([losses[np.isin(steps, shared)] for steps, losses in curves])
    mean, error = band(stacked)
    kept = sorted({round(place) for place in np.linspace(0, len(shared) - 1, min(len(shared), POINTS))})
    steps = [shared[index] for index in kept]
    line = {"color": look.color, "dash": _dash(look), "width": 2}
    if len(curves) > 1:
        low, high = (mean - error)[kept], (mean + error)[kept]
        figure.add_scatter(
            x=[*steps, *reversed(steps)],
            y=_numbers([*high, *reversed(low)]),
            fill="toself",
            fillcolor=_faint(look.color),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            meta={"method": name},
        )
    figure.add_scatter(x=steps, y=_numbers(mean[kept]), name=name, mode="lines", line=line, meta={"method": name})


def _weights(section: Section) -> Iterator[Chart]:
    looks = task_styles(section.tasks)
    for method in section.methods:
        found = [cube(run, "weight") for run in section.finished(method)]
        found = [(steps, weights) for steps, weights in found if len(steps)]
        if not found:
            continue
        length = min(len(steps) for steps, _ in found)
        mean = np.mean([weights[:length].mean(axis=1) for _, weights in found], axis=0)
        steps, mean = windows(found[0][0][:length].astype(float), POINTS), windows(mean, POINTS)
        figure = go.Figure()
        for place, task in enumerate(section.tasks):
            line = {"color": looks[task].color, "dash": _dash(looks[task]), "width": 2}
            figure.add_scatter(x=_numbers(steps), y=_numbers(mean[:, place]), name=task, mode="lines", line=line)
        _layout(figure, "step", "weight", hovermode="x unified")
        figure.update_layout(meta={"method": method})
        caption = f"{section.name}: mean over seeds and replicas, in at most {POINTS} windows of steps."
        yield Chart(f"Weights: {method}", caption, figure.to_plotly_json())


def _cost(tables: SectionTables, styles: Mapping[str, Style]) -> Chart | None:
    frame = tables.overview.frame
    if RELATIVE.key not in frame or not frame[[RELATIVE.key, DELTA_METRICS]].notna().all(axis=1).any():
        return None
    figure = go.Figure()
    for row in frame.to_dict("records"):
        name, cost, quality = str(row["method"]), float(row[RELATIVE.key]), float(row[DELTA_METRICS])
        if math.isfinite(cost) and math.isfinite(quality):
            error = float(row.get(DELTA_METRICS + ERROR, math.nan))
            _point(figure, name, cost, quality, styles[name], error if math.isfinite(error) else 0.0)
    _layout(figure, "s/step relative to uniform (lower is better)", "Δm % (lower is better)")
    caption = (
        "Δm: mean over metrics against single-task training, ± one standard error over seeds; 0 is single-task training."
    )
    return Chart("Cost against quality", caption, figure.to_plotly_json())


def _fronts(section: Section, tables: SectionTables, styles: Mapping[str, Style]) -> Iterator[Chart]:
    if tables.front is None:
        return
    frame = tables.front.frame
    static = frame[frame["kind"] == "static"]
    for first, second in itertools.combinations(objectives(section), 2):
        figure = go.Figure()
        figure.add_scatter(
            x=_numbers(static[first.key].to_numpy(np.float64)),
            y=_numbers(static[second.key].to_numpy(np.float64)),
            text=[str(label) for label in static["label"]],
            name="static weights",
            mode="markers",
            marker={
                "color": "#8a8a8a",
                "size": 6,
                "symbol": ["circle" if on else "circle-open" for on in static["on_front"]],
            },
        )
        for row in frame[frame["kind"] == "method"].to_dict("records"):
            name = str(row["label"])
            _point(figure, name, float(row[first.key]), float(row[second.key]), styles[name], 0.0)
        arrows = ["higher" if info.higher_is_better else "lower" for info in (first, second)]
        _layout(figure, f"{first.key} ({arrows[0]} is better)", f"{second.key} ({arrows[1]} is better)")
        caption = "Means over seeds. Filled grey points are on the front of the static weights over all metrics."
        yield Chart(f"Pareto front: {first.key} and {second.key}", caption, figure.to_plotly_json())


def _point(figure: go.Figure, name: str, x: float, y: float, look: Style, error: float) -> None:
    marker = {"color": look.color, "symbol": SYMBOLS.get(look.marker, "circle"), "size": 10}
    bars = {"type": "data", "array": [error], "visible": error > 0, "thickness": 1}
    figure.add_scatter(x=[x], y=[y], error_y=bars, name=name, mode="markers", marker=marker, meta={"method": name})


def _layout(figure: go.Figure, x: str, y: str, hovermode: str = "closest") -> None:
    figure.update_layout(
        template=None,
        xaxis={"title": {"text": x}, "automargin": True},
        yaxis={"title": {"text": y}, "automargin": True},
        hovermode=hovermode,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        height=360,
    )


def _dash(look: Style) -> str:
    """Plotly's name for a line style, in the order of the palette's; single tasks are dotted."""
    if look == STL_STYLE:
        return "dot"
    return DASHES[PALETTE_DASHES.index(look.dashes) % len(DASHES)] if look.dashes in PALETTE_DASHES else "solid"


def _range(figure: go.Figure, total: int) -> list[float] | None:
    """The values after the first tenth of the run, in which all fall alike, with a margin; None if there are none."""
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    late = [y for trace in lines for x, y in zip(trace.x, trace.y, strict=True) if x >= total / 10 and y is not None]
    if not late or min(late) == max(late):
        return None
    margin = 0.06 * (max(late) - min(late))
    return [min(late) - margin, max(late) + margin]


def _faint(color: str) -> str:
    red, green, blue = (round(255 * part) for part in mpl.colors.to_rgb(color))
    return f"rgba({red},{green},{blue},0.15)"


def _numbers(values: Sequence[float] | Floats) -> list[float | None]:
    """Six digits, which no screen shows more of; None where there is no number."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
