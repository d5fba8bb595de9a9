"""The charts of the page, as Plotly figures: what the pictures show, with values under the pointer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from benchmarks.analysis import statistics
from benchmarks.analysis.loading import probes_of
from benchmarks.analysis.scales import Scale, of_losses
from benchmarks.analysis.scores import DELTA_METRICS
from benchmarks.analysis.section_tables import RELATIVE, SectionTables
from benchmarks.analysis.sections import STL, Section
from benchmarks.analysis.statistics import Floats, band
from benchmarks.analysis.table import ERROR
from benchmarks.records.schema import OF_METHOD, MetricInfo, Run
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
    for place, task in enumerate(section.tasks):
        figure = go.Figure()
        single = [run for seed in section.seeds if (run := section.baseline(task, seed)) is not None]
        curves = [(STL, _mean_curve(single, 0), STL_STYLE)]
        curves += [(name, _mean_curve(section.finished(name), place), styles[name]) for name in section.methods]
        drawn, keys = {}, []
        for name, curve, look in curves:
            if curve is not None:
                _curve(figure, name, *curve, look)
                drawn[name] = curve[1]
                keys.append(curve_key(name, look, name))
        if keys:
            shown, off = of_losses(drawn)
            layout(figure, "step", "validation loss", hovermode="x unified")
            _values_axis(figure, shown)
            caption = (
                f"{section.name}: mean over seeds and replicas; the band is ± one standard error over seeds. The range is "
                "that after the first tenth of the run; a double click shows all."
            )
            caption += f" Off scale: {', '.join(off)}." if off else ""
            yield Chart(f"Validation loss: {task}", caption, tuple(keys), figure.to_plotly_json())


def _mean_curve(runs: Sequence[Run], place: int) -> tuple[list[int], Floats, Floats] | None:
    """Steps, mean and standard error over runs of a task's validation loss, ``(T,)`` each with T at most ``POINTS``."""
    curves = [(steps, losses[:, :, place].mean(axis=1)) for steps, losses in (run.values("val_loss") for run in runs)]
    curves = [(steps, losses) for steps, losses in curves if len(steps)]
    if not curves:
        return None
    shared = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    mean, error = band(np.array([losses[np.isin(steps, shared)] for steps, losses in curves]))
    kept = sorted({round(index) for index in np.linspace(0, len(shared) - 1, min(len(shared), POINTS))})
    return [shared[index] for index in kept], mean[kept], error[kept]


def _curve(figure: go.Figure, name: str, steps: list[int], mean: Floats, error: Floats, look: Style) -> None:
    if np.isfinite(error).any():
        figure.add_scatter(
            x=[*steps, *reversed(steps)],
            y=numbers([*(mean + error), *reversed(mean - error)]),
            mode="lines",
            fill="toself",
            fillcolor=look.color,
            line={"width": 0},
            opacity=0.15,
            hoverinfo="skip",
            meta={"method": name},
        )
    marks = (
        {"mode": "lines+markers", "marker": marker(look, 8) | {"maxdisplayed": MARKS}} if look.marker else {"mode": "lines"}
    )
    figure.add_scatter(x=steps, y=numbers(mean), name=text(name), line=line(look), meta={"method": name}, **marks)


def _weights(section: Section) -> Iterator[Chart]:
    for method in section.methods:
        yield from by_task_chart(section, method, "weight", "weight", f"Weights: {method}")


def _probes(section: Section) -> Iterator[Chart]:
    for method in section.methods:
        for column in probes_of(section.finished(method)):
            name = column.removeprefix(OF_METHOD)
            yield from by_task_chart(section, method, column, name, f"Inside {method}: {name}")


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
        _static(figure, frame[frame["kind"] == "static"], first, second)
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


def _static(figure: go.Figure, static: pd.DataFrame, first: MetricInfo, second: MetricInfo) -> None:
    """Every static weighting as a point that says its weights, and the line through those on the front of two metrics."""
    points = static[[first.key, second.key]].to_numpy(np.float64)
    front = points[statistics.non_dominated(points, [first.higher_is_better, second.higher_is_better])]
    front = front[np.argsort(front[:, 0])]
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


def _point(figure: go.Figure, name: str, x: float, y: float, look: Style, error: float) -> None:
    bars = {"type": "data", "array": numbers([error]), "visible": math.isfinite(error), "thickness": 1}
    figure.add_scatter(
        x=[x], y=[y], error_y=bars, name=text(name), mode="markers", marker=marker(look, 11), meta={"method": name}
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
