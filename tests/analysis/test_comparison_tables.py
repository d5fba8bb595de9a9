"""The tables of the fair comparison, from made-up records whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import disturbed, make, suite, write_suite

from benchmarks.analysis import across, error_rates
from benchmarks.analysis.equal_time import equal_time_table, lowest_score, steps_in_time
from benchmarks.analysis.pareto import front_table
from benchmarks.analysis.relative_cost import ratios
from benchmarks.analysis.scores import Scores, scores
from benchmarks.analysis.section_tables import section_tables
from benchmarks.analysis.sections import Section, sections
from benchmarks.analysis.statistics import interquartile_mean, non_dominated
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.analysis.tuning import frozen_table, tuned_table
from benchmarks.analysis.verdict_tables import verdict_tables
from benchmarks.contract import Training
from benchmarks.records.schema import MetricInfo, Role, Run
from benchmarks.report.figures import pareto as front_plot
from benchmarks.report.figures import style
from benchmarks.report.palette import method_styles
from benchmarks.report.suite_report import write_calibration, write_report

TASKS = ("left", "right")
INFOS = tuple(MetricInfo(key=f"{task}/loss", name="loss", task=task, higher_is_better=False, primary=True) for task in TASKS)


def run(method: str, seed: int, left: float, right: float, role: Role = "method", **more: object) -> Run:
    metrics = {"left/loss": left, "right/loss": right}
    return make(method, seed, tasks=TASKS, infos=INFOS, metrics=metrics, role=role, **more)  # type: ignore[arg-type]


def alone(seed: int, value: float = 1.0, role: Role = "single_task", **more: object) -> list[Run]:
    return [
        make("uniform", seed, tasks=(info.task or "",), infos=[info], metrics={info.key: value}, role=role, **more)  # type: ignore[arg-type]
        for info in INFOS
    ]


def section_of(runs: list[Run]) -> Section:
    found, _ = sections(runs)
    assert len(found) == 1
    return found[0]


def comparison(seeds: int, gain: Callable[[int], float], *, baselines: bool = True) -> Section:
    """Uniform at 1.0 and famo better by ``gain(seed)``, against single tasks at 1.0."""
    runs = [run("uniform", seed, 1.0, 1.0) for seed in range(seeds)]
    runs += [run("famo", seed, 1.0 - gain(seed), 1.0 - gain(seed)) for seed in range(seeds)]
    return section_of([*runs, *(each for seed in range(seeds) if baselines for each in alone(seed))])


def frame_of(table: object) -> Any:
    frame = getattr(table, "frame", None)
    assert isinstance(frame, pd.DataFrame)
    return frame


# ---- the measure and the verdict -------------------------------------------------------------------------------------


def measured(section: Section) -> tuple[str, Any]:
    found = scores(section)
    return found.measure.header, found.by_seed("method", "famo", found.measure)[0]


def test_the_measure_is_delta_m_and_without_single_tasks_the_change_against_uniform() -> None:
    with_stl = section_of([run("uniform", 0, 2.0, 1.0), run("famo", 0, 1.0, 3.0), *alone(0)])
    assert measured(with_stl) == ("Δm %", pytest.approx((0 + 200) / 2))
    without = section_of([run("uniform", 0, 2.0, 1.0), run("famo", 0, 1.0, 3.0)])
    assert measured(without) == ("change against uniform %", pytest.approx((-50 + 200) / 2))


@pytest.mark.parametrize(
    ("seeds", "gain", "verdict"),
    [
        (8, lambda seed: 0.1 + seed / 1000, "better"),
        (8, lambda seed: -0.1 - seed / 1000, "worse"),
        (8, lambda seed: 0.1 * (-1) ** seed, "no difference seen"),
        (3, lambda seed: 0.1, "3 of 3 better; too few to test"),
    ],
)
def test_verdicts(seeds: int, gain: Callable[[int], float], verdict: str) -> None:
    (table,) = verdict_tables(scores(comparison(seeds, gain)))
    row = frame_of(table).set_index("method").loc["famo"]
    assert row["verdict"] == verdict
    assert row["change"] == pytest.approx(-100 * np.mean([gain(seed) for seed in range(seeds)]))
    assert math.isfinite(row["p_value"]) == (seeds == 8)
    assert ("cannot reach p < 0.25" in table.caption) == (seeds == 3)
    assert ("sign-flip test" in table.caption) == (seeds == 8)


def two_rivals(seeds: int) -> Section:
    runs = [run("uniform", seed, 1.0, 1.0) for seed in range(seeds)]
    for method in ("famo", "coba"):
        runs += [run(method, seed, 0.9, 0.9 - seed / 1000) for seed in range(seeds)]
    return section_of(runs)


def test_verdicts_are_corrected_for_their_number() -> None:
    frame = frame_of(*verdict_tables(scores(two_rivals(8))))
    assert frame["p_value"].tolist() == pytest.approx([2 * 2 / 2**8] * 2)
    assert set(frame["verdict"]) == {"better"}


def test_pairs_that_no_correction_leaves_a_chance_are_not_tested() -> None:
    (table,) = verdict_tables(scores(two_rivals(6)))
    assert set(frame_of(table)["verdict"]) == {"6 of 6 better; too few to test"}
    assert "6 pairs cannot reach p < 0.062 over 2 comparisons; 7 pairs could be tested" in table.caption


def test_without_uniform_there_is_no_verdict() -> None:
    assert verdict_tables(scores(section_of([run("famo", 0, 1.0, 1.0)]))) == ()


# ---- tuned, frozen, front --------------------------------------------------------------------------------------------


def faster(lr: float) -> Training:
    return Training(steps=400, log_every=10, evaluate_every=20, lr=lr)


def test_default_and_tuned_stand_side_by_side() -> None:
    runs = []
    for seed in range(3):
        runs += [run("uniform", seed, 1.0, 1.0), run("famo", seed, 1.0, 1.0), *alone(seed)]
        runs.append(
            run("famo", seed, 0.8, 0.8, "tuned", training=faster(0.01), hyperparameters={"for": "famo", "gamma": 0.1})
        )
        runs.append(run("uniform", seed, 0.9, 0.9, "tuned", training=faster(0.1)))
    runs += [run("famo", 9, 1.0, 1.0, "trial", training=faster(lr)) for lr in (0.01, 0.1)]
    runs.append(run("famo", 9, 1.0, 1.0, "trial", training=faster(1.0), state="diverged", failed_step=20))
    section = section_of(runs)
    row = frame_of(tuned_table(scores(section))).set_index("method").loc["famo"]
    assert row["trials"] == "3 (1 failed)"
    assert row["setting"] == "lr=0.01, famo.gamma=0.1"
    assert [row[key] for key in ("default", "tuned", "change")] == pytest.approx([0, -20, -20])
    default, best = map(frame_of, verdict_tables(scores(section)))
    assert default.set_index("method").loc["famo", "change"] == pytest.approx(0)
    against = best.set_index("method").loc["famo"]
    assert (against["change"], against["verdict"]) == (pytest.approx(-10), "3 of 3 better; too few to test")
    assert section.seeds == (0, 1, 2)


def test_tuned_methods_are_held_against_tuned_constants_too() -> None:
    runs = []
    for seed in range(3):
        for name, tuned in (("uniform", 0.9), ("static", 0.6), ("famo", 0.8)):
            runs += [run(name, seed, 1.0, 1.0), run(name, seed, tuned, tuned, "tuned", training=faster(0.01))]
        runs += alone(seed)
    tables = verdict_tables(scores(section_of(runs)))
    assert [table.title for table in tables[1:]] == [
        "Verdict: tuned, against tuned uniform",
        "Verdict: tuned, against tuned static",
    ]
    against_uniform, against_static = (frame_of(table).set_index("method")["change"] for table in tables[1:])
    assert dict(against_uniform) == pytest.approx({"static": -30, "famo": -10})
    assert dict(against_static) == pytest.approx({"uniform": 30, "famo": 20})


def test_tuned_methods_are_held_against_tuned_single_tasks() -> None:
    runs = []
    for seed in range(3):
        runs += [run("uniform", seed, 1.0, 1.0), run("famo", seed, 1.0, 1.0), *alone(seed)]
        runs += [run(name, seed, 0.8, 0.8, "tuned", training=faster(0.01)) for name in ("uniform", "famo")]
        runs += alone(seed, 0.5, "single_task_tuned", training=faster(0.1))
    runs += alone(9, 0.5, "single_task_trial", training=faster(0.1))
    section = section_of(runs)
    table = tuned_table(scores(section))
    assert table is not None
    row = frame_of(table).set_index("method").loc["famo"]
    # Default: 1.0 beside 1.0; tuned: 0.8 beside 0.5. What tuning is worth: 0.8 and 1.0, both beside 0.5.
    assert [row[key] for key in ("default", "tuned", "change")] == pytest.approx([0, 60, 60 - 100])
    headers = [column.header for column in table.columns]
    assert "Δm %, default, against STL at the default setting" in headers
    assert "Δm %, tuned, against tuned STL" in headers
    assert table.notes == ("Tuned STL: left lr=0.1, right lr=0.1.",)
    # Without single-task runs of their own both columns are against the default ones, and say so.
    older = tuned_table(scores(section_of([each for each in runs if not each.record.run.role.startswith("single_task_")])))
    assert older is not None
    assert frame_of(older).set_index("method").loc["famo", "tuned"] == pytest.approx(-20)
    assert "Δm %, tuned, against STL at the default setting" in [column.header for column in older.columns]


def test_frozen_is_compared_with_the_method_of_the_same_seed() -> None:
    runs = []
    for seed in range(3):
        runs += [run("uniform", seed, 1.0, 1.0), run("coba", seed, 1.0 + seed, 1.0), *alone(seed)]
        frozen = run("coba", seed, 0.5 + seed, 1.0, "frozen", hyperparameters={"weights": [1.0, float(seed)]})
        runs.append(frozen)
    row = frame_of(frozen_table(scores(section_of(runs)))).set_index("method").loc["coba"]
    assert (row["change"], row["change.se"]) == pytest.approx((25, 0))


def test_other_fingerprints_keep_a_control_out() -> None:
    runs = [run("uniform", 0, 1.0, 1.0), run("coba", 0, 1.0, 1.0)]
    odd = run("coba", 0, 0.5, 1.0, "frozen")
    prints = odd.record.fingerprints
    assert prints is not None
    other = prints.model_copy(update={"data_order": "another"})
    runs.append(replace(odd, record=odd.record.model_copy(update={"fingerprints": other})))
    section = section_of(runs)
    assert frozen_table(scores(section)) is None
    assert "data order" in section.excluded[0][1]


def on_the_simplex() -> Section:
    runs = [run("uniform", 0, 1.0, 1.0), run("famo", 0, 0.4, 0.4)]
    for weight, left, right in ((0.5, 2.0, 0.5), (1.0, 0.9, 0.9), (1.5, 0.5, 2.0), (1.9, 0.6, 2.5)):
        runs.append(run("static", 0, left, right, "simplex", hyperparameters={"weights": [weight, 2 - weight]}))
    labelled = []
    for each in runs:
        spec = each.record.run
        if spec.role == "simplex":
            label = f"static{tuple(spec.weighter.hyperparameters['weights'])}"
            spec = spec.model_copy(update={"weighter": spec.weighter.model_copy(update={"label": label})})
        labelled.append(replace(each, record=each.record.model_copy(update={"run": spec})))
    return section_of(labelled)


def test_the_front_is_of_the_static_weights_and_methods_are_held_against_it() -> None:
    section = on_the_simplex()
    frame = frame_of(front_table(scores(section))).set_index("label")
    places = frame["place"]
    assert places[frame["kind"] == "static"].tolist() == ["on the front", "on the front", "on the front", "behind"]
    assert places["uniform"] == "behind 1 of 4 static"
    assert places["famo"] == "not behind any"
    assert section.methods == ("uniform", "famo")


def test_the_front_has_a_picture() -> None:
    section = on_the_simplex()
    with style.settings():
        figure = front_plot.figure(section_tables(section), method_styles(section.methods))
    assert figure is not None
    (axis,) = figure.axes
    assert axis.get_xlabel() == "left/loss ←"


def test_non_dominated_by_hand() -> None:
    points = np.array([[1.0, 5.0], [2.0, 4.0], [2.0, 6.0], [1.0, 5.0], [math.nan, 0.0]])
    assert non_dominated(points, [False, False]).tolist() == [True, True, False, True, False]
    assert non_dominated(points, [True, True]).tolist() == [False, False, True, False, False]


# ---- equal time ------------------------------------------------------------------------------------------------------


def test_a_method_twice_as_slow_has_half_the_steps() -> None:
    base, slow = run("uniform", 0, 1, 1, seconds=0.001), run("famo", 0, 1, 1, seconds=0.002)
    exact = [
        replace(
            each, record=each.record.model_copy(update={"costs": costs.model_copy(update={"seconds_per_step": seconds})})
        )
        for each, seconds in ((base, 0.001), (slow, 0.002))
        if (costs := each.record.costs) is not None
    ]
    assert ratios(exact[1:], exact[:1]) == {0: 2.0}
    assert steps_in_time(400, 2.0) == 200
    assert steps_in_time(400, 0.5) == 400
    losses = slow.trajectory.dropna(subset="val_loss").pivot_table(index="step", columns="task", values="val_loss")
    scores = (losses / losses.iloc[0]).mean(axis=1)
    assert lowest_score(slow, 200) == pytest.approx(scores[scores.index <= 200].min())
    row = frame_of(equal_time_table(section_of(exact))).set_index("method").loc["famo"]
    assert row["steps"] == 200
    assert row["by_time"] >= row["by_steps"]


def test_disturbed_runs_are_in_no_ratio() -> None:
    """Of three seeds, one method's run and another's uniform one waited for a processor."""
    base = [run("uniform", seed, 1, 1, seconds=0.001) for seed in range(3)]
    slow = [run("famo", seed, 1, 1, seconds=0.002) for seed in range(3)]
    base[0], slow[1] = disturbed(base[0]), disturbed(slow[1])
    assert list(ratios(slow, base)) == [2]
    tables = section_tables(section_of([*base, *slow]))
    frame = frame_of(tables.overview).set_index("method")
    assert frame["relative_seconds"]["famo"] == pytest.approx(2.0, rel=0.1)
    base[2] = disturbed(base[2])
    section = section_of([*base, *slow])
    assert math.isnan(frame_of(section_tables(section).overview).set_index("method")["relative_seconds"]["famo"])
    row = frame_of(equal_time_table(section)).set_index("method").loc["famo"]
    assert math.isnan(row["by_time"])
    assert math.isfinite(row["by_steps"])


# ---- across problems -------------------------------------------------------------------------------------------------


def many_problems(problems: int) -> list[Scores]:
    runs = []
    for number in range(problems):
        for seed in (0, 1):
            for place, method in enumerate(("uniform", "famo", "coba")):
                value = 1.0 - 0.1 * place + 0.001 * seed
                each = make(
                    method, seed, problem=f"p{number}", tasks=TASKS, infos=INFOS,
                    metrics={"left/loss": value, "right/loss": value},
                )  # fmt: skip
                runs.append(each)
    return [scores(section) for section in sections(runs)[0]]


def test_the_aggregate_is_the_interquartile_mean_of_the_changes() -> None:
    found = across.changes(many_problems(2))
    frame = frame_of(across.aggregate_table(found)).set_index("method")
    values = found.frame.loc[found.frame["method"] == "coba", "change"].to_numpy(np.float64)
    assert len(values) == 2 * 2 * 2
    assert frame.loc["coba", "iqm"] == pytest.approx(interquartile_mean(values))
    assert frame.loc["coba", "improvement"] == 1.0
    assert frame.loc["coba", "low"] <= frame.loc["coba", "iqm"] <= frame.loc["coba", "high"]


def test_interquartile_mean_leaves_out_the_outer_quarters() -> None:
    assert interquartile_mean(np.array([-1000.0, 1.0, 3.0, 1000.0])) == 2.0


def test_one_problem_has_no_aggregate() -> None:
    assert across.aggregate_table(across.changes(many_problems(1))) is None


# ---- calibration -----------------------------------------------------------------------------------------------------


def noise(seeds: int, draw: np.random.Generator) -> list[Run]:
    runs = [run("uniform", seed, *draw.normal(1.0, 0.05, 2).tolist()) for seed in range(seeds)]
    return [*runs, *(each for seed in range(seeds) for each in alone(seed))]


def test_false_positives_stay_near_their_level_and_power_grows() -> None:
    section = section_of(noise(40, np.random.default_rng(1)))
    frame = frame_of(error_rates.calibration_table(scores(section), repetitions=150, pairs=(3, 8))).set_index("pairs")
    assert math.isnan(frame.loc[3, "false"])
    assert frame.loc[8, "false"] <= 12
    assert frame.loc[8, "power0.5"] < frame.loc[8, "power1.0"] < frame.loc[8, "power1.5"]
    assert frame.loc[3, "covered"] < frame.loc[8, "covered"]


def test_too_few_runs_are_one_line(tmp_path: Path) -> None:
    section = section_of(noise(4, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="pictures: expected at least 6 finished runs of uniform, found 4"):
        error_rates.calibration_table(scores(section))
    folder = write_suite(tmp_path / "none", [])
    with pytest.raises(ValueError, match="expected recorded runs, found none"):
        write_calibration(folder, keys=set())


@pytest.mark.slow
def test_whole_reports_hold_the_new_tables(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "fake", suite(languages=3))
    write_report(suite_tables(folder), tmp_path / "plots")
    page = (folder / "report.md").read_text(encoding="utf-8")
    for title in ("Verdict: against uniform", "Equal steps and equal time", "Across the problems"):
        assert title in page
