"""Pictures and charts by task: weights, and numbers inside the methods, with few tasks and with many."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import fake_runs
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.analysis.scales import scale
from benchmarks.analysis.sections import Section, sections
from benchmarks.analysis.spread import MOST_LINES, alike, spread
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.records.schema import Run
from benchmarks.report.figures import style, timeline, weights
from benchmarks.report.html.page import write_html
from benchmarks.report.palette import COMMON, HALF, MEDIAN, MOST
from benchmarks.report.suite_report import write_report

METHODS = ("uniform", "famo", "coba")
NUMBERS = (2, 3, MOST_LINES, MOST_LINES + 1, 40)


def runs(number: int, methods: tuple[str, ...] = METHODS) -> list[Run]:
    """All methods but uniform have numbers inside."""
    tasks = tuple(f"language <{index}>" for index in range(number))
    made = [fake_runs.make(name, seed, tasks=tasks) for name in methods for seed in (0, 1)]
    return [run if run.label == "uniform" else fake_runs.probed(run) for run in made]


def one(found: list[Run]) -> Section:
    (section,), _ = sections(found)
    return section


def drawn(found: list[Run], kind: Any = timeline) -> Figure:
    with style.settings():
        figure = kind.figure(one(found))
        assert isinstance(figure, Figure)
        figure.canvas.draw()
    return figure


def inside(figure: Figure) -> list[Axes]:
    """The panels of numbers inside methods; losses and weights are in others."""
    return [axis for axis in figure.axes if str(axis.get_label()).startswith(("score", "share"))]


def labels(axis: Axes) -> list[str]:
    return [str(line.get_label()) for line in axis.get_lines()]


def curve(axis: Axes, label: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    (line,) = [line for line in axis.get_lines() if line.get_label() == label]
    return np.asarray(line.get_xydata(), dtype=np.float64)


# ---- how values are spread -------------------------------------------------------------------------------------------


def test_a_spread_is_of_what_is_there() -> None:
    values = np.arange(21.0)[:, None] * np.ones(3)
    values[:, 1] = np.nan
    values[5:, 2] = np.inf
    found = spread(values)
    assert found.known.tolist() == [True, False, True]
    assert found.median.tolist() == [10.0, 2.0]
    assert [list(ends) for ends in zip(*found.half, strict=True)] == [[5.0, 15.0], [1.0, 3.0]]
    assert [list(ends) for ends in zip(*found.most, strict=True)] == [[1.0, 19.0], pytest.approx([0.2, 3.8])]


def test_tasks_are_alike_where_no_number_differs() -> None:
    one_for_all = np.array([[1.0, np.nan, 2.0]] * 3)
    assert alike(one_for_all)
    assert not alike(one_for_all[:1])
    one_for_all[1, 2] += 1e-12
    assert not alike(one_for_all)


# ---- the picture -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_of_every_method_has_a_panel(number: int) -> None:
    figure = drawn(runs(number))
    panels = ["validation loss\nabove lowest, %, {}", "weight, {}", "score, {}", "share, {}"]
    assert [axis.get_label() for axis in figure.axes] == [
        panel.format(name) for name in ("famo", "coba") for panel in panels
    ]
    for axis, below in zip(figure.axes, figure.axes[1:4], strict=False):
        assert axis.get_xlim() == below.get_xlim()
    tasks = [f"language <{index}>" for index in range(number)]
    few = number <= MOST_LINES
    for axis in figure.axes:
        expected = [COMMON] if "share" in str(axis.get_label()) else tasks if few else [MEDIAN]
        assert labels(axis) == expected
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == [*(tasks if few else [MEDIAN, HALF, MOST]), COMMON]
    legend = figure.legends[0].get_window_extent()
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    assert not any(box is not None and legend.overlaps(box) for box in boxes)
    assert figure.bbox.contains(*legend.min) and figure.bbox.contains(*legend.max)


@pytest.mark.parametrize("number", NUMBERS)
def test_pictures_of_weights_and_of_numbers_inside_change_at_the_same_number_of_tasks(number: int) -> None:
    for axis in drawn(runs(number), weights).axes:
        assert len(labels(axis)) == (number if number <= MOST_LINES else 1)


def test_the_curve_is_the_mean_over_seeds_at_its_steps() -> None:
    axis = inside(drawn(runs(3)))[0]
    steps, values = curve(axis, "language <1>").T
    np.testing.assert_allclose(values, 2 * (1 + steps / 400) * 1.005, atol=0.01)
    assert (steps[0], steps[-1]) == (5, 400)


def changed(run: Run, values: Any) -> Run:
    frame = run.trajectory.copy()
    frame["method.score"] = values(frame)
    return Run(run.record, frame)


@pytest.mark.parametrize("starts", [(0, 200), (200, 0)])
def test_numbers_that_begin_later_in_one_run_are_meaned_where_both_have_them(starts: tuple[int, int]) -> None:
    """By step, not by their place in the file."""
    found = [run for run in runs(2, ("uniform", "famo")) if run.label == "uniform"]
    for seed, start in enumerate(starts):
        run = fake_runs.probed(fake_runs.make("famo", seed, tasks=found[0].record.tasks))
        found.append(changed(run, lambda frame, start=start: frame["step"].where(frame["step"] >= start).astype(float)))
    axis = inside(drawn(found))[0]
    steps, values = curve(axis, COMMON).T
    assert steps[0] >= 200
    np.testing.assert_allclose(values, steps, atol=1)


def test_numbers_that_are_not_finite_draw_nothing_and_hide_nothing() -> None:
    found = [run if run.label == "uniform" else changed(run, lambda frame: np.inf) for run in runs(2, ("uniform", "famo"))]
    assert [axis.get_label() for axis in inside(drawn(found))] == ["share, famo"]
    found = [
        run if run.label == "uniform" else changed(run, lambda frame: np.where(frame["step"] < 100, np.nan, frame["step"]))
        for run in runs(2, ("uniform", "famo"))
    ]
    found[-1].trajectory.loc[found[-1].trajectory["step"] == 300, "method.score"] = -np.inf
    axis = inside(drawn(found))[0]
    steps, values = curve(axis, COMMON).T
    assert steps[0] >= 100 and np.isfinite(values).all()
    assert np.isfinite(axis.get_ylim()).all()


def test_panels_of_one_number_share_their_axis() -> None:
    wild = [changed(run, lambda frame: frame["method.score"] * 1000) for run in runs(3, ("dwa",))]
    axes = {axis.get_label(): axis for axis in drawn([*runs(3, ("uniform", "famo", "coba", "gradnorm")), *wild]).axes}
    assert axes["score, famo"].get_ylim() == axes["score, coba"].get_ylim() == axes["score, gradnorm"].get_ylim()
    assert axes["score, famo"].get_ylim() != axes["share, famo"].get_ylim()
    own = axes["score, dwa"]
    assert own.get_title() == "[own scale]"
    found = scale([np.array([1000.0, 6030.0])])
    assert found is not None and own.get_ylim()[1] == pytest.approx(found.high, rel=0.05)


def test_a_method_whose_runs_all_failed_shows_the_first() -> None:
    failed = fake_runs.make("famo", 0, tasks=("left", "right"), state="diverged", failed_step=120)
    found = [fake_runs.make("uniform", 0), fake_runs.probed(failed)]
    figure = drawn(found)
    assert [axis.get_label() for axis in inside(figure)] == ["score, famo", "share, famo"]
    assert figure.axes[0].get_title() == "famo (0/1 seeds)"


def test_shares_are_on_a_linear_axis_however_small_they_become() -> None:
    found = [run if run.label == "uniform" else changed(run, lambda frame: 10.0 ** (-frame["step"] / 20)) for run in runs(3)]
    assert {axis.get_yscale() for axis in inside(drawn(found))} == {"linear"}
    found = [run if run.label == "uniform" else changed(run, lambda frame: 10.0 ** (frame["step"] / 200)) for run in runs(3)]
    assert [axis.get_yscale() for axis in inside(drawn(found))] == ["log", "linear", "log", "linear"]


def test_no_numbers_no_picture_and_with_them_one_on_the_page(tmp_path: Path) -> None:
    plain = [fake_runs.make(name) for name in METHODS]
    assert timeline.figure(one(plain)) is None
    report = write_report(suite_tables(fake_runs.write_suite(tmp_path / "plain", plain)), tmp_path / "plots" / "plain")
    assert not any("timeline" in path.name for path in report.paths)
    folder = fake_runs.write_suite(tmp_path / "fake", runs(3))
    report = write_report(suite_tables(folder), tmp_path / "plots" / "fake")
    assert "pictures_timeline.png" in {path.name for path in report.paths}
    assert "![pictures: inside the methods](<../plots/fake/pictures_timeline.png>)" in (folder / "report.md").read_text()


# ---- the page --------------------------------------------------------------------------------------------------------


def charts(page: Path) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Title -> figure and the names in its legend."""
    text = page.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, flags=re.DOTALL)
    assert data is not None
    figures = json.loads(data.group(1))
    found = {}
    for title, place, rest in re.findall(
        r'<figure class="chart"><h3>(.*?)</h3>\s*<div id="(chart-[^"]*)"(.*?)</figure>', text, re.DOTALL
    ):
        found[title] = figures[place], re.findall(r"</svg>\s*(.*?)</li>", rest, re.DOTALL)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_charts_follow_the_rule_of_the_pictures(number: int, tmp_path: Path) -> None:
    found = charts(write_html(suite_tables(fake_runs.write_suite(tmp_path / "fake", runs(number))), ""))
    expected = {f"Weights: {name}" for name in METHODS}
    expected |= {f"Inside {name}: {probe}" for name in ("famo", "coba") for probe in ("score", "share")}
    assert {title for title in found if title.startswith(("Weights", "Inside"))} == expected
    few = number <= MOST_LINES
    for title in expected:
        figure, entries = found[title]
        assert figure["layout"]["meta"]["method"] in title
        named = [trace["name"] for trace in figure["data"] if "name" in trace]
        if title.endswith("share"):
            assert (named, entries) == ([COMMON], [COMMON])
        elif few:
            assert len(named) == len(entries) == number
        else:
            assert (named, entries) == ([MEDIAN], [MEDIAN, HALF, MOST])
            assert [trace.get("fill") for trace in figure["data"]] == ["toself", "toself", None]


def test_the_pointer_names_the_ends_of_a_spread(tmp_path: Path) -> None:
    found = charts(write_html(suite_tables(fake_runs.write_suite(tmp_path / "fake", runs(40))), ""))
    said = found["Inside famo: score"][0]["data"][-1]["text"]
    # Escaped for Plotly, which reads marks of HTML.
    assert said[0] == "highest: language &lt;39&gt; (40.2)<br>lowest: language &lt;0&gt; (1.005)"
    assert said[-1] == "highest: language &lt;39&gt; (80.4)<br>lowest: language &lt;0&gt; (2.01)"
