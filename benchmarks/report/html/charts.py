"""The charts of the page, as Plotly figures: what the pictures show, with values under the pointer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from benchmarks.analysis.curves import Trace, loss_panels, probe_columns, task_panels
from benchmarks.analysis.pareto import front_line
from benchmarks.analysis.scales import Scale
from benchmarks.analysis.scores import DELTA_METRICS
from benchmarks.analysis.section_tables import RELATIVE, SectionTables
from benchmarks.analysis.sections import Section
from benchmarks.analysis.table import ERROR
from benchmarks.records.schema import MetricInfo
from benchmarks.report.figures.pareto import MOST_PANELS
from benchmarks.report.html.by_task import by_task_chart
from benchmarks.report.html.chart import POINTS, Chart, layout, numbers, text
from benchmarks.report.html.plotly_style import curve_key, line, marker, point_key
from benchmarks.report.palette import DASHES, STL_STYLE, Style

MARKS = 8
"""Marks along a curve: enough to follow it without colour."""
STATIC = Style("#8a8a8a", "o", DASHES[0])


def section_charts(tables: SectionTables, styles: Mapping[str, Style]) -> list[Chart]:
    """All charts of a problem that its records allow."""
    section = tables.scores.section
    return [
        *_losses(section, styles),
        *_weights(section),
        *_probes(section),
        *_cost(tables, styles),
        *_fronts(tables, styles),
    ]


def _losses(section: Section, styles: Mapping[str, Style]) -> Iterator[Chart]:
    for panel in loss_panels(section, POINTS):
        figure = go.Figure()
        for trace in panel.traces:
            _curve(figure, trace, styles.get(trace.name, STL_STYLE))
        for trace in panel.failed:
            _failed(figure, trace, styles[trace.name])
        names = dict.fromkeys(trace.name for trace in (*panel.traces, *panel.failed))
        if names:
            layout(figure, "step", "validation loss", hovermode="x unified")
            _values_axis(figure, panel.scale)
            caption = (
                f"{section.name}: mean over seeds and replicas; the band is ± one standard error over seeds. The range is "
                "that after the first tenth of the run; a double click shows all."
            )
            caption += " A cross ends a run that failed; such runs are in no mean." if panel.failed else ""
            caption += f" Off scale: {', '.join(panel.beyond)}." if panel.beyond else ""
            keys = tuple(curve_key(name, styles.get(name, STL_STYLE), name) for name in names)
            yield Chart(f"Validation loss: {panel.task}", caption, keys, figure.to_plotly_json())


def _curve(figure: go.Figure, trace: Trace, style: Style) -> None:
    steps = trace.steps.tolist()
    if np.isfinite(trace.error).any():
        figure.add_scatter(
            x=[*steps, *reversed(steps)],
            y=numbers([*(trace.mean + trace.error), *reversed(trace.mean - trace.error)]),
            mode="lines",
            fill="toself",
            fillcolor=style.color,
            line={"width": 0},
            opacity=0.15,
            hoverinfo="skip",
            meta={"method": trace.name},
        )
    marks = (
        {"mode": "lines+markers", "marker": marker(style, 8) | {"maxdisplayed": MARKS}}
        if style.marker
        else {"mode": "lines"}
    )
    own = {"name": text(trace.name), "line": line(style), "meta": {"method": trace.name}}
    figure.add_scatter(x=steps, y=numbers(trace.mean), **own, **marks)


def _failed(figure: go.Figure, trace: Trace, style: Style) -> None:
    """A thin line with a cross at its end."""
    own = {"name": text(f"{trace.name}, failed"), "line": line(style) | {"width": 1}, "meta": {"method": trace.name}}
    # Of an open mark the page may change the colour by the theme, as of all others.
    signs = {"color": style.color, "symbol": "x-thin-open", "line": {"width": 1.5}}
    sizes = [*([0] * (len(trace.steps) - 1)), 8]
    figure.add_scatter(
        x=trace.steps.tolist(), y=numbers(trace.mean), mode="lines+markers", marker=signs | {"size": sizes}, **own
    )


def _weights(section: Section) -> Iterator[Chart]:
    for panel in task_panels(section, "weight", POINTS):
        yield by_task_chart(section, panel, f"Weights: {panel.method}")


def _probes(section: Section) -> Iterator[Chart]:
    panels = [panel for column in probe_columns(section) for panel in task_panels(section, column, POINTS)]
    for panel in sorted(panels, key=lambda panel: section.methods.index(panel.method)):
        yield by_task_chart(section, panel, f"Inside {panel.method}: {panel.name}")


def _cost(tables: SectionTables, styles: Mapping[str, Style]) -> Iterator[Chart]:
    frame = tables.overview.frame
    if RELATIVE.key not in frame or not frame[[RELATIVE.key, DELTA_METRICS]].notna().all(axis=1).any():
        return
    figure, keys = go.Figure(), []
    for row in frame.to_dict("records"):
        name, cost, quality = str(row["method"]), float(row[RELATIVE.key]), float(row[DELTA_METRICS])
        if math.isfinite(cost) and math.isfinite(quality):
            _point(figure, name, cost, quality, styles[name], float(row.get(DELTA_METRICS + ERROR, math.nan)))
            keys.append(point_key(name, styles[name], name))
    layout(figure, "s/step relative to uniform (lower is better)", "Δm % (lower is better)")
    caption = (
        f"{tables.scores.section.name}: Δm is the mean over metrics against single-task training, ± one standard error over "
        "seeds; 0 is single-task training."
    )
    yield Chart("Cost against quality", caption, tuple(keys), figure.to_plotly_json())


def _fronts(tables: SectionTables, styles: Mapping[str, Style]) -> Iterator[Chart]:
    pairs = list(itertools.combinations(tables.scores.judged, 2))
    if tables.front is None or len(pairs) > MOST_PANELS:
        return
    frame = tables.front.frame
    methods = frame[frame["kind"] == "method"].to_dict("records")
    keys = (
        curve_key("static weights", STATIC, None),
        *(point_key(name, styles[name], name) for name in (str(row["label"]) for row in methods)),
    )
    for first, second in pairs:
        figure = go.Figure()
        _static(figure, frame, first, second)
        for row in methods:
            name = str(row["label"])
            _point(figure, name, float(row[first.key]), float(row[second.key]), styles[name], math.nan)
        arrows = ["higher" if info.higher_is_better else "lower" for info in (first, second)]
        layout(figure, f"{first.key} ({arrows[0]} is better)", f"{second.key} ({arrows[1]} is better)")
        caption = (
            f"{tables.scores.section.name}: means over seeds. Line: the front of the static weights in these two metrics; "
            "filled grey points are on their front over all metrics."
        )
        yield Chart(f"Pareto front: {first.key} and {second.key}", caption, keys, figure.to_plotly_json())


def _static(figure: go.Figure, frame: pd.DataFrame, first: MetricInfo, second: MetricInfo) -> None:
    """Every static weighting as a point that says its weights, and the line through those on the front of two metrics."""
    static = frame[frame["kind"] == "static"]
    points = static[[first.key, second.key]].to_numpy(np.float64)
    front = front_line(frame, first, second)
    figure.add_scatter(
        x=numbers(front[:, 0]), y=numbers(front[:, 1]), mode="lines", line=line(STATIC) | {"width": 1}, hoverinfo="skip"
    )
    figure.add_scatter(
        x=numbers(points[:, 0]),
        y=numbers(points[:, 1]),
        text=[text(str(label)) for label in static["label"]],
        name="static weights",
        mode="markers",
        marker=marker(STATIC, 7) | {"symbol": ["circle" if on else "circle-open" for on in static["on_front"]]},
    )


def _point(figure: go.Figure, name: str, x: float, y: float, style: Style, error: float) -> None:
    bars = {"type": "data", "array": numbers([error]), "visible": math.isfinite(error), "thickness": 1}
    figure.add_scatter(
        x=[x], y=[y], error_y=bars, name=text(name), mode="markers", marker=marker(style, 11), meta={"method": name}
    )


def _values_axis(figure: go.Figure, shown: Scale | None) -> None:
    if shown is None:
        return
    if not shown.logarithmic:
        figure.update_yaxes(range=[shown.low, shown.high])
        return
    # Plotly's own ticks between powers of ten say 2 and 5 for 20 and 50.
    low, high = math.log10(shown.low), math.log10(shown.high)
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    figure.update_yaxes(type="log", range=[low, high], tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
