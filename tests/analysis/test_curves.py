"""Curves: what a line is the mean of, where failed runs end, and that pictures and page draw the same lines."""

from __future__ import annotations

import re
from pathlib import Path

import fake_runs
import numpy as np
import pytest

from benchmarks.analysis.curves import loss_panels, probe_columns, rise_panels, task_panels, thin
from benchmarks.analysis.sections import STL, Section, sections
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.contract import Training
from benchmarks.records.schema import Run
from benchmarks.report.figures import curves, style
from benchmarks.report.html.charts import section_charts
from benchmarks.report.palette import method_styles

LONG = Training(steps=4000, log_every=10, evaluate_every=20)
"""201 evaluations."""


def of(runs: list[Run]) -> Section:
    (section,), _ = sections(runs)
    return section


def three_methods(training: Training | None = None) -> list[Run]:
    runs = [fake_runs.make(name, seed, training=training) for name in ("uniform", "famo", "coba") for seed in (0, 1, 2)]
    runs += [
        fake_runs.make("uniform", seed, tasks=(task,), role="single_task", training=training)
        for task in ("left", "right")
        for seed in (0, 1, 2)
    ]
    return runs


def test_a_line_is_the_mean_over_seeds_with_its_standard_error() -> None:
    section = of(three_methods())
    for place, panel in enumerate(loss_panels(section, 1000)):
        assert [trace.name for trace in panel.traces] == [STL, *section.methods]
        trace = next(trace for trace in panel.traces if trace.name == "famo")
        own = np.stack([run.values("val_loss")[1][:, 0, place] for run in section.finished("famo")])
        np.testing.assert_allclose(trace.mean, own.mean(axis=0))
        np.testing.assert_allclose(trace.error, own.std(axis=0, ddof=1) / np.sqrt(3))
        assert trace.steps.tolist() == section.finished("famo")[0].values("val_loss")[0].tolist()


def test_steps_that_one_seed_lacks_are_in_no_mean() -> None:
    runs = three_methods()
    famo = next(run for run in runs if run.label == "famo")
    shorter = famo.trajectory[famo.trajectory["step"] != 200]
    runs[runs.index(famo)] = Run(famo.record, shorter)
    traces = {trace.name: trace for trace in loss_panels(of(runs), 1000)[0].traces}
    assert set(traces["coba"].steps) - set(traces["famo"].steps) == {200}
    assert np.isfinite(traces["famo"].mean).all()


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    panel = loss_panels(of(three_methods(LONG)), 50)[0]
    for trace in panel.traces:
        assert len(trace.steps) == len(trace.mean) == len(trace.error) == 50
        assert (trace.steps[0], trace.steps[-1]) == (0, 4000)
    assert thin(0, 50) == []
    assert thin(3, 50) == [0, 1, 2]


def test_a_failed_run_is_a_line_of_its_own_to_its_last_number() -> None:
    runs = three_methods()
    runs += [fake_runs.make("dwa", 0), fake_runs.make("dwa", 1, state="diverged", failed_step=120, reason="nan")]
    panel = loss_panels(of(runs), 1000)[0]
    assert [(trace.name, trace.steps[-1]) for trace in panel.failed] == [("dwa", 120)]
    assert next(trace for trace in panel.traces if trace.name == "dwa").runs == 1


def turning(seed: int, **replaced: float) -> Run:
    """``left`` turns in the middle at the lowest of 2, to end at 3; ``right`` falls from 2 to 1, or has the value given."""
    run = fake_runs.make("coba", seed)
    frame, share = run.trajectory.copy(), run.trajectory["step"] / run.record.run.training.steps
    losses = np.where(frame["task"] == "left", 2 + 2 * (share - 0.5).abs(), replaced.get("right", 2 - share))
    frame["val_loss"] = np.where(frame["val_loss"].isna(), np.nan, losses)
    return Run(run.record, frame)


def test_how_far_a_loss_is_above_its_lowest_ends_the_axis_after_that_alone() -> None:
    section = of([turning(seed) for seed in (0, 1)])
    (panel,) = rise_panels(section, section.methods, 1000)
    left, right = panel.mean
    assert (left[0], left.min(), left[-1]) == pytest.approx((50, 0, 50))
    assert (right[0], right[-1]) == pytest.approx((100, 0))
    assert panel.scale is not None
    assert (panel.scale.low, panel.scale.high) == pytest.approx((0, 55))


def test_a_lowest_loss_of_zero_has_no_rise_and_hides_no_other() -> None:
    section = of([turning(seed, right=0.0) for seed in (0, 1)])
    (panel,) = rise_panels(section, section.methods, 1000)
    assert np.isnan(panel.mean[1]).all()
    assert panel.mean[0][-1] == pytest.approx(50)


def test_nothing_measured_has_no_panels() -> None:
    empty = fake_runs.make("uniform").trajectory.iloc[:0]
    section = of([fake_runs.make("uniform", trajectory=empty, state="crashed", reason="no luck")])
    assert loss_panels(section, 50) == []
    assert task_panels(section, "weight", 50) == []
    assert probe_columns(section) == []


@pytest.mark.parametrize("training", [None, LONG])
def test_weights_are_meaned_over_windows_of_steps(training: Training | None) -> None:
    section = of(three_methods(training))
    panel = next(panel for panel in task_panels(section, "weight", 40) if panel.method == "coba")
    assert panel.mean.shape == panel.error.shape == (2, len(panel.steps))
    assert len(panel.steps) <= 40
    own = np.stack([run.values("weight")[1][:, 0] for run in section.finished("coba")]).mean(axis=0)
    size = -(-len(own) // 40)
    np.testing.assert_allclose(panel.mean[:, 0], own[:size].mean(axis=0))


def test_the_picture_and_the_page_draw_the_same_lines(tmp_path: Path) -> None:
    runs = [*three_methods(), fake_runs.make("dwa", 1, state="diverged", failed_step=120, reason="loss of left is nan")]
    (tables,) = suite_tables(fake_runs.write_suite(tmp_path / "fake", runs)).sections
    section = tables.scores.section
    styles = method_styles(section.methods)
    with style.settings():
        figure = curves.figure(section, styles)
    assert figure is not None
    charts = [chart for chart in section_charts(tables, styles) if chart.title.startswith("Validation loss")]
    for axis, chart in zip(figure.axes, charts, strict=True):
        drawn = {
            re.sub("^_failed ", "", str(line.get_label())): np.asarray(line.get_xydata(), dtype=np.float64)
            for line in axis.get_lines()
            if line.get_label() != "_end"
        }
        lines = [trace for trace in chart.figure["data"] if trace.get("name")]
        shown = {str(trace["name"]).removesuffix(", failed"): np.array([trace["x"], trace["y"]], float).T for trace in lines}
        assert shown.keys() == drawn.keys() == {STL, "uniform", "famo", "coba", "dwa"}
        for name, points in shown.items():
            np.testing.assert_allclose(points, drawn[name], rtol=1e-5)
