"""Trials, the choice among them, static weights over the simplex, frozen weights: planned, then trained for real."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import make, trajectories
from suites import TINY, as_yaml, plan_in

from benchmarks.catalog import weighter_class
from benchmarks.cli import main as command_line
from benchmarks.contract import Training
from benchmarks.errors import UserError
from benchmarks.planning.follow_up import follow_up
from benchmarks.planning.frozen import frozen_run
from benchmarks.planning.plan import Filters, Plan, make_plan
from benchmarks.planning.simplex import simplex_weights
from benchmarks.planning.suite import read_suite
from benchmarks.planning.trials import trials
from benchmarks.planning.tuned import tuned_runs, validation_score
from benchmarks.records.schema import Run, RunSpec
from benchmarks.records.storage import read_run

RATES = [0.001, 0.01, 0.1]


def suite_file(folder: Path, **changes: Any) -> Path:
    content = {
        "seeds": [0, 1],
        "problems": [TINY],
        "weighters": ["uniform", "dwa", "static"],
        "tune": {"learning_rates": RATES, "seed": 100},
        "controls": {"simplex": 10, "frozen": True},
        **changes,
    }
    path = folder / "fair.yaml"
    path.write_text(as_yaml(content), encoding="utf-8")
    return path


def plan_of(folder: Path, **changes: Any) -> Plan:
    return plan_in(suite_file(folder, **changes))


def of_role(plan: Plan, role: str) -> list[RunSpec]:
    return [run for run in plan.runs if run.role == role]


# ---- trials ----------------------------------------------------------------------------------------------------------


def test_the_defaults_at_every_learning_rate_come_first_and_all_have_as_many_trials(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, tune={"learning_rates": RATES, "seed": 100, "trials": 12})
    found = of_role(plan, "trial")
    assert Counter(run.weighter.label for run in found) == {"uniform": 12, "dwa": 12, "static": 12}
    assert {run.seed for run in found} == {100}
    usual = {run.weighter.label: run.weighter.hyperparameters for run in of_role(plan, "method")}
    for label in ("uniform", "dwa", "static"):
        own = [run for run in found if run.weighter.label == label]
        assert [run.training.lr for run in own[: len(RATES)]] == [0.01, 0.001, 0.1]
        assert [run.weighter.hyperparameters for run in own[: len(RATES)]] == [usual[label]] * len(RATES)
        assert all(RATES[0] <= run.training.lr <= RATES[-1] for run in own)
        assert len({run.key for run in own}) == 12
    temperatures = {run.weighter.hyperparameters["temperature"] for run in found if run.weighter.label == "dwa"}
    assert temperatures == set(weighter_class("dwa").search["temperature"])


def test_single_tasks_are_tried_as_often_and_at_the_rates_of_uniform(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, tune={"learning_rates": RATES, "seed": 100, "trials": 7})
    rates = [run.training.lr for run in of_role(plan, "trial") if run.weighter.label == "uniform"]
    alone = of_role(plan, "single_task_trial")
    assert {run.problem.tasks for run in alone} == {("small",), ("medium",), ("large",)}
    for task in ("small", "medium", "large"):
        assert [run.training.lr for run in alone if run.problem.tasks == (task,)] == rates
    assert (
        of_role(make_plan(read_suite(str(suite_file(tmp_path))), Filters(weighters=["dwa"]), "cpu"), "single_task_trial")
        == []
    )


def test_the_problems_own_learning_rate_is_tried_first_where_the_suite_does_not_name_it(tmp_path: Path) -> None:
    found = of_role(plan_of(tmp_path, training={"lr": 0.05}), "trial")
    assert [run.training.lr for run in found if run.weighter.label == "dwa"] == [0.05, *RATES]


@pytest.mark.parametrize("names", [(), ("alpha",), ("alpha", "beta")])
@pytest.mark.parametrize("number", [8, 20, 64])
def test_trials_fill_the_space_evenly(names: tuple[str, ...], number: int) -> None:
    """Better than chance: the largest gap between learning rates, and how often each value is met."""
    space = dict.fromkeys(names, (1, 2, 3, 4))
    for seed in range(20):
        drawn = trials([1e-4, 1e-1], dict.fromkeys(names, 1), space, 2 + number, seed)[2:]
        places = np.sort((np.log10([rate for rate, _ in drawn]) + 4) / 3)
        assert np.diff(places, prepend=0.0, append=1.0).max() <= 2.01 / 2 ** np.floor(np.log2(number))
        for name in names:
            count = Counter(setting[name] for _, setting in drawn)
            assert all(abs(count[value] - number / 4) <= 2 for value in space[name])


def test_trials_are_those_of_the_seed() -> None:
    arguments = (RATES, {"alpha": 1}, {"alpha": (1, 2, 3)}, 9)
    assert trials(*arguments, seed=0) == trials(*arguments, seed=0)
    assert trials(*arguments, seed=0) != trials(*arguments, seed=1)


def test_what_a_suite_sets_by_hand_is_not_searched(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, weighters=[{"name": "dwa", "temperature": 3.0}])
    assert {run.weighter.hyperparameters["temperature"] for run in of_role(plan, "trial") if run.weighter.name == "dwa"} == {
        3.0
    }


def test_all_settings_are_tried_where_there_are_no_more() -> None:
    space = {"alpha": (1, 2), "beta": ("x", "y")}
    found = trials([0.1], {"alpha": 1, "beta": "y"}, space, 4, seed=0)
    assert found[0] == (0.1, {"alpha": 1, "beta": "y"})
    assert {(setting["alpha"], setting["beta"]) for _, setting in found} == {(1, "x"), (1, "y"), (2, "x"), (2, "y")}
    # A default outside the published space is one more.
    assert len(trials([0.1], {"alpha": 9, "beta": "y"}, space, 5, seed=0)) == 5


def test_a_suite_has_a_search_space_of_its_own(tmp_path: Path) -> None:
    search = {"static": {"weights": [[1.0, 1.0, 2.0], [2.0, 1.0, 1.0]]}}
    plan = plan_of(tmp_path, tune={"learning_rates": RATES, "seed": 100, "trials": 8, "search": search})
    found = [run.weighter.hyperparameters["weights"] for run in of_role(plan, "trial") if run.weighter.label == "static"]
    assert found[: len(RATES)] == [None] * len(RATES)
    assert {tuple(weights) for weights in found[len(RATES) :]} == {(1.0, 1.0, 2.0), (2.0, 1.0, 1.0)}
    others = [run.weighter.hyperparameters for run in of_role(plan, "trial") if run.weighter.name == "dwa"]
    assert len({values["temperature"] for values in others}) > 1


def test_a_weighter_that_is_left_out_is_compared_at_its_defaults_alone(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, tune={"learning_rates": RATES, "seed": 100, "leave_out": ["dwa"]})
    assert {run.weighter.label for run in of_role(plan, "trial")} == {"uniform", "static"}
    assert "dwa" in {run.weighter.label for run in of_role(plan, "method")}
    with pytest.raises(UserError, match=r"tune\.leave_out\[0\]: .*'dva'.* did you mean 'dwa'"):
        plan_of(tmp_path, tune={"learning_rates": RATES, "seed": 100, "leave_out": ["dva"]})


def test_a_problem_is_tuned_in_its_own_way(tmp_path: Path) -> None:
    own = {"name": TINY, "training": {"steps": 10}, "tune": {"learning_rates": [0.01, 0.02], "seed": 7}}
    plan = plan_of(tmp_path, problems=[TINY, own])
    tried = {(run.training.steps, run.seed, run.training.lr) for run in of_role(plan, "trial")}
    assert tried == {*((20, 100, lr) for lr in RATES), *((10, 7, lr) for lr in (0.01, 0.02))}


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"dva": {}}, r"tune\.search\.dva: .*'dva'.* did you mean 'dwa'"),
        ({"dwa": {"heat": [1]}}, r"tune\.search\.dwa\.heat: dwa: .*'heat'"),
        ({"dwa": {"temperature": []}}, r"tune\.search\.dwa\.temperature: expected at least 1 of them"),
        ({"dwa": {"temperature": [-1.0]}}, r"tune: dwa: expected temperature"),
    ],
)
def test_a_mistake_in_a_search_space_is_one_line(tmp_path: Path, search: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path, tune={"learning_rates": RATES, "seed": 100, "trials": 4, "search": search})


def test_more_trials_than_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"uniform: expected at most as many trials .* different settings, 1, found 4"):
        plan_of(tmp_path, training={"lr": 0.1}, tune={"learning_rates": [0.1], "seed": 100, "trials": 4})


def test_fewer_trials_than_learning_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tune\.trials: uniform: expected at least 4 trials, .* found 2"):
        plan_of(tmp_path, training={"lr": 0.05}, tune={"learning_rates": RATES, "seed": 100, "trials": 2})


def test_a_tuning_seed_of_the_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tune\.seed: expected a seed that no comparison uses, found 1"):
        plan_of(tmp_path, tune={"learning_rates": RATES, "seed": 1})


# ---- the choice ------------------------------------------------------------------------------------------------------


def trained(spec: RunSpec, lowest: float, state: str = "finished") -> Run:
    """A made-up record of a planned run whose validation losses fall to ``lowest`` of their start."""
    draw = np.random.default_rng(0)
    table = trajectories("uniform", spec.problem.tasks, spec.training, draw)
    table["val_loss"] = np.where(table["step"] == 0, 2.0, 2.0 * lowest)
    run = make(trajectory=table, tasks=spec.problem.tasks, training=spec.training)
    update: dict[str, Any] = {"run": spec, "key": spec.key, "state": state}
    return Run(run.record.model_copy(update=update), table)


def test_the_trial_with_the_lowest_validation_score_is_trained_on_the_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    best = {"uniform": 0.1, "dwa": 0.001, "static": 0.01}
    runs = [
        trained(spec, 0.2 if spec.training.lr == best[spec.weighter.label] else 0.5, "finished")
        for spec in of_role(plan, "trial")
    ]
    found = tuned_runs(plan.runs, runs)
    chosen = {(run.weighter.label, run.training.lr, run.seed) for run in found}
    assert chosen == {(label, lr, seed) for label, lr in best.items() for seed in (0, 1)}
    assert {run.role for run in found} == {"tuned"}


def test_the_tuned_setting_is_never_worse_on_validation_than_the_default(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, tune={"learning_rates": RATES, "seed": 100, "trials": 9})
    scores: dict[str, float] = dict(
        zip((run.key for run in plan.runs), np.random.default_rng(0).random(len(plan.runs)).tolist(), strict=True)
    )
    runs = [trained(spec, scores[spec.key]) for spec in plan.runs if spec.role in ("trial", "single_task_trial")]
    found = tuned_runs(plan.runs, runs)
    planned = [spec for spec in plan.runs if spec.role in ("method", "single_task") and spec.weighter.label != "random"]
    assert len(found) == len(planned)

    def score_of(spec: RunSpec) -> float:
        """Of the trial with the setting of a run."""
        same = (spec.problem.tasks, spec.weighter.label, spec.method, spec.training)
        (trial,) = [
            run
            for run in runs
            if (each := run.record.run) and (each.problem.tasks, each.weighter.label, each.method, each.training) == same
        ]
        return scores[trial.record.key]

    for default in planned:
        (best,) = [
            spec
            for spec in found
            if (spec.problem.tasks, spec.weighter.label, spec.seed)
            == (default.problem.tasks, default.weighter.label, default.seed)
        ]
        assert score_of(best) <= score_of(default)


def test_a_trial_that_diverged_loses_and_missing_trials_wait(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, weighters=["uniform"])
    specs = of_role(plan, "trial")
    runs = [trained(spec, 0.1 + index / 10, "diverged" if index == 0 else "finished") for index, spec in enumerate(specs)]
    assert {run.training.lr for run in tuned_runs(plan.runs, runs)} == {specs[1].training.lr}
    assert tuned_runs(plan.runs, runs[1:]) == []
    assert tuned_runs(plan.runs, [trained(spec, 0.5, "diverged") for spec in specs]) == []


def test_validation_score_is_the_mean_relative_loss_at_the_selected_step() -> None:
    run = make(training=Training(steps=40, log_every=10, evaluate_every=20))
    table, step = run.trajectory, run.record.selection
    assert step is not None
    ratios = [
        float(table.query(f"task == '{task}' and step == {step.step}")["val_loss"].iloc[0])
        / float(table.query(f"task == '{task}' and step == 0")["val_loss"].iloc[0])
        for task in run.record.tasks
    ]
    assert validation_score(run) == pytest.approx(sum(ratios) / len(ratios))


# ---- the simplex -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_tasks", "points", "count"), [(2, 9, 9), (3, 10, 10), (3, 14, 10), (3, 15, 15), (5, 20, 20)])
def test_weights_cover_the_simplex(num_tasks: int, points: int, count: int) -> None:
    found = simplex_weights(num_tasks, points)
    assert len(set(found)) == len(found) == count
    for weights in found:
        assert sum(weights) == pytest.approx(num_tasks, abs=1e-4)
        assert min(weights) > 0
    if num_tasks < 4:
        assert {tuple(reversed(weights)) for weights in found} == set(found)


def test_draws_on_the_simplex_are_uniform() -> None:
    found = np.array(simplex_weights(4, 4000)) / 4
    # A coordinate of a uniform point on the 3-simplex has P(w > x) = (1 - x)^3.
    for level, column in itertools.product((0.1, 0.3, 0.6), range(4)):
        assert (found[:, column] > level).mean() == pytest.approx((1 - level) ** 3, abs=0.03)


def test_one_task_has_no_simplex(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"controls\.simplex: expected at least 2 tasks"):
        plan_of(tmp_path, problems=[{"name": TINY, "options": {"tasks": ["small"]}}])


# ---- frozen weights --------------------------------------------------------------------------------------------------


def test_frozen_weights_are_the_average_over_the_logged_steps() -> None:
    run = make("coba", 3)
    frozen = frozen_run(run)
    assert frozen is not None
    expected = [run.trajectory.query(f"task == '{task}'")["weight"].mean() for task in run.record.tasks]
    assert frozen.weighter.hyperparameters["weights"] == pytest.approx(expected, abs=1e-6)
    assert (frozen.weighter.name, frozen.weighter.label, frozen.seed, frozen.role) == ("static", "coba", 3, "frozen")


@pytest.mark.parametrize("name", ["uniform", "random", "static"])
def test_controls_are_not_frozen(name: str) -> None:
    assert frozen_run(make(name)) is None


def test_negative_averages_are_not_frozen() -> None:
    run = make("gradnorm")
    run.trajectory["weight"] -= 5.0
    assert frozen_run(run) is None


# ---- for real --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_protocol_trains_what_follows_and_nothing_twice(tmp_path: Path) -> None:
    path = suite_file(tmp_path)
    arguments = [str(path), "--trust", "--out", str(tmp_path / "out"), "--plots", str(tmp_path / "plots"), "--steps", "20"]
    assert command_line.main([*arguments, "--executor", "here"]) == 0
    folders = {each.name for each in (tmp_path / "out" / "fair" / "runs").iterdir()}
    records = [read_run(tmp_path / "out" / "fair" / "runs" / name) for name in folders]
    roles = Counter(run.record.run.role for run in records)
    assert roles == {
        "method": 8,
        "single_task": 6,
        "simplex": 20,
        "trial": 9,
        "tuned": 6,
        "frozen": 2,
        "single_task_trial": 9,
        "single_task_tuned": 6,
    }
    assert all(run.record.state == "finished" for run in records)
    plan = plan_in(path, Filters(steps=20))
    assert {spec.key for spec in [*plan.runs, *follow_up(plan, tmp_path / "out" / "fair")]} == folders
    assert command_line.main(["report", *arguments]) == 0
    assert {each.name for each in (tmp_path / "out" / "fair" / "runs").iterdir()} == folders
