"""``prior`` in a suite: for every method, by list or by task; in key, label, report and protocol; mistakes are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import train
from fake_runs import make
from suites import TINY, labels, plan_of, suite, suite_file

import benchmarks
from benchmarks.analysis.sections import sections, uniform_label
from benchmarks.errors import UserError
from benchmarks.planning.plan import Plan
from benchmarks.records.schema import Run, RunSpec, WeighterSpec
from benchmarks.regression.step_cost import relative
from weighting import METHODS

TASKS = ("small", "medium", "large")


def planned(folder: Path, *weighters: Any, **changes: Any) -> Plan:
    return plan_of(folder, suite(weighters=list(weighters), **changes))


def of(plan: Plan, name: str, role: str = "method") -> list[RunSpec]:
    return [run for run in plan.runs if run.weighter.name == name and run.role == role]


def prior_of(plan: Plan, name: str = "famo") -> list[Any]:
    return [run.weighter.hyperparameters["prior"] for run in of(plan, name)]


# ---- what a suite says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_a_list_or_tasks_by_name_and_both_are_one_run(name: str, tmp_path: Path) -> None:
    listed = of(planned(tmp_path, {"name": name, "prior": [20, 1, 0.5]}), name)
    named = of(planned(tmp_path, {"name": name, "prior": {"large": 0.5, "small": 20.0}}), name)
    plain = of(planned(tmp_path, name), name)
    assert listed[0].weighter.hyperparameters["prior"] == [20, 1, 0.5]
    assert named[0].key == listed[0].key != plain[0].key
    assert listed[0].method["hyperparameters"]["prior"] == [20, 1, 0.5]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 2, 3], [[1, 2, 3]]),
        ({"medium": 3}, [[1, 3, 1]]),
        (2, [[2, 2, 2]]),
        ([[1, 2, 3], {"large": 0}], [[1, 2, 3], [1, 1, 0]]),
        ([None, {"small": 2}], [None, [2, 1, 1]]),
        ([{"small": 2}, 5], [[2, 1, 1], [5, 5, 5]]),
        (None, [None]),
        (1, [None]),
        ([1, 1.0, 1], [None]),
        ({}, [None]),
    ],
    ids=str,
)
def test_a_prior_is_k_numbers_in_the_order_of_the_tasks_and_lists_of_priors_are_a_grid(
    given: Any, expected: list[Any], tmp_path: Path
) -> None:
    assert prior_of(planned(tmp_path, {"name": "famo", "prior": given})) == expected


def test_a_problem_sets_a_prior_for_itself_in_the_order_of_its_own_tasks(tmp_path: Path) -> None:
    other = {
        "name": TINY,
        "options": {"tasks": ["large", "small"], "noise": 0.2},
        "hyperparameters": {"famo": {"prior": {"small": 4}}},
    }
    plan = planned(tmp_path, "famo", problems=[TINY, other])
    assert prior_of(plan) == [None, [1, 4]]


def test_priors_name_the_methods_that_differ_in_nothing_else(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"name": "famo", "prior": [None, {"small": 20}]}, {"name": "uniform", "prior": {"large": 3}})
    found = [label for label in labels(plan) if label not in ("random", "single_task")]
    assert found == ["famo", "famo[prior=(20, 1, 1)]", "uniform[prior=(1, 1, 3)]", "uniform"]


@pytest.mark.parametrize("control", ["uniform", "random"])
def test_a_control_under_a_prior_stands_beside_the_plain_one(control: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, {"name": control, "prior": [2, 1, 1]})
    assert sorted(map(str, prior_of(plan, control))) == ["None", "[2, 1, 1]"]
    changed = planned(
        tmp_path, "famo", control, problems=[{"name": TINY, "hyperparameters": {control: {"prior": {"small": 2}}}}]
    )
    assert prior_of(changed, control) == [[2, 1, 1], None]


MISTAKES: dict[str, tuple[str, list[str]]] = {
    "too few": ("[1, 2]", ["expected prior with 3 numbers, one per task, found 2", "Tiny"]),
    "too many": ("[1, 2, 3, 4]", ["expected prior with 3 numbers, one per task, found 4"]),
    "none": ("[]", ["expected prior with 3 numbers, one per task, found 0"]),
    "a short one in a grid": ("[[1, 2, 3], [1, 2]]", ["expected prior with 3 numbers, one per task, found 2"]),
    "an unknown task": ("{smal: 2}", [".prior: ", "unknown task 'smal'; did you mean 'small'?", "Tiny"]),
    "a task that is a number": ("{1: 2}", [".prior: ", "unknown task '1'"]),
    "negative": ("[1, -2, 1]", ["expected every number of prior to be a finite number at least 0, found -2"]),
    "negative by name": ("{large: -0.5}", ["expected every number of prior to be a finite number at least 0, found -0.5"]),
    "not a number": ("[1, .nan, 1]", ["every number of prior", "found nan"]),
    "infinite": ("{small: .inf}", ["every number of prior", "found inf"]),
    "all zero": ("[0, 0, 0]", ["expected the sum of prior to be a finite number above 0"]),
    "all zero by name": ("{small: 0, medium: 0, large: 0}", ["expected the sum of prior to be a finite number above 0"]),
    "zero for all": ("0", ["expected the sum of prior to be a finite number above 0"]),
    "words": ("high", ["prior"]),
    "a word among numbers": ("[1, two, 3]", ["every number of prior", "found 'two'"]),
    "true": ("true", ["every number of prior", "found True"]),
    "a list for a task": ("{small: [1, 2]}", ["every number of prior", "found [1, 2]"]),
}


@pytest.mark.parametrize("method", ["famo", "uniform"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_file_place_and_what_was_found(mistake: str, method: str, tmp_path: Path) -> None:
    value, expected = MISTAKES[mistake]
    content = f"seeds: [0]\nproblems: [{{name: '{TINY}'}}]\nweighters:\n  - {{name: {method}, prior: {value}}}\n"
    with pytest.raises(UserError) as caught:
        plan_of(tmp_path, content)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    for words in (":4: weighters[0]", *expected):
        assert words in line


# ---- trained ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite with tuning and frozen weights, trained."""
    folder = tmp_path_factory.mktemp("priors")
    path = suite_file(
        folder,
        weighters=[
            {"name": "uniform", "prior": {"small": 4, "large": 0.5}},
            {"name": "static", "weights": [[4, 1, 0.5], [2, 1, 1]]},
            {"name": "dwa", "prior": [[3, 1, 1]]},
        ],
        training={"steps": 10, "log_every": 1},
        tune={"learning_rates": [0.01, 0.003], "seed": 100},
        controls={"frozen": True},
    )
    assert train(path) == 0
    return folder / "out" / "mine"


@pytest.mark.slow
def test_uniform_under_a_prior_is_a_fixed_weighting(trained: Path) -> None:
    frame = benchmarks.load_trajectories(trained)
    runs = benchmarks.load(trained).query("role == 'method'").set_index("method")
    own = frame[(frame["method"] == "uniform[prior=(4, 1, 0.5)]") & (frame["role"] == "method")]
    constant = frame[(frame["method"] == "static[weights=(4, 1, 0.5)]") & (frame["role"] == "method")]
    assert own.dropna(subset="weight").groupby("task")["weight"].unique().map(list).to_dict() == {
        "small": [4.0],
        "medium": [1.0],
        "large": [0.5],
    }
    assert len(own) == len(constant) > 0
    for column in ("train_loss", "val_loss", "weight"):
        assert own[column].reset_index(drop=True).equals(constant[column].reset_index(drop=True))
    assert runs.loc["uniform[prior=(4, 1, 0.5)]", "hp.prior"] == [4, 1, 0.5]
    assert runs.loc["uniform", "hp.prior"] is None


@pytest.mark.slow
def test_a_prior_goes_into_trials_and_tuned_runs_and_once_into_frozen_weights(trained: Path) -> None:
    runs = benchmarks.load(trained).query("weighter != 'static' or role == 'frozen'")
    for role, times in (("trial", 2), ("tuned", 1), ("method", 1)):
        found = runs[(runs["role"] == role) & runs["method"].str.startswith("dwa")]
        assert found["hp.prior"].tolist() == [[3, 1, 1]] * times
    (frozen,) = runs[(runs["role"] == "frozen") & runs["method"].str.startswith("dwa")].to_dict("records")
    logged = benchmarks.load_trajectories(trained).query("role == 'method'")
    means = logged[logged["method"].str.startswith("dwa")].groupby("task")["weight"].mean()
    assert frozen["hp.weights"] == pytest.approx([means[task] for task in TASKS], abs=1e-6)
    assert frozen["hp.weights"][0] > 2
    assert pd.isna(frozen["hp.prior"])


@pytest.mark.slow
def test_the_report_says_the_prior_and_compares_with_plain_uniform(trained: Path) -> None:
    lines = (trained / "report.md").read_text(encoding="utf-8").splitlines()
    used = [line for line in lines if "prior=" in line and " | " in line]
    for start, end in (
        ("| uniform | uniform |", "prior=null |"),
        ("| uniform\\[prior=(4, 1, 0.5)\\] | uniform |", "prior=\\[4, 1, 0.5\\] |"),
        ("| dwa | dwa |", "prior=\\[3, 1, 1\\] |"),
    ):
        assert any(line.startswith(start) and line.endswith(end) for line in used), (start, end)
    (settings,) = (trained / "tables").glob("*_settings.csv")
    assert "prior=(4, 1, 0.5)" in pd.read_csv(settings)["setting"].tolist()
    (verdict,) = (trained / "tables").glob("*_verdict.csv")
    assert "uniform" not in pd.read_csv(verdict)["method"].tolist()


# ---- the plain one is what others are held against -------------------------------------------------------------------


def weighted(seconds: float) -> Run:
    """Uniform under a prior, named as if it were the plain one."""
    run = make("uniform", hyperparameters={"losses_from": "training", "prior": [2, 1]}, seconds=seconds)
    spec = run.record.run
    weighter = WeighterSpec(name="uniform", label="aaa", hyperparameters=spec.weighter.hyperparameters)
    return Run(run.record.model_copy(update={"run": spec.model_copy(update={"weighter": weighter})}), run.trajectory)


def test_uniform_under_a_prior_is_never_the_baseline() -> None:
    plain, other = make("uniform", seconds=0.01), make("dwa", seconds=0.02)
    (both,), _ = sections([weighted(1.0), plain, other])
    assert uniform_label(both) == "uniform"
    (alone,), _ = sections([weighted(1.0), other])
    assert uniform_label(alone) is None


def test_costs_are_relative_to_plain_uniform() -> None:
    plain, other = make("uniform", seconds=0.01), make("dwa", seconds=0.02)
    methods = {"aaa": {0: weighted(1.0)}, "uniform": {0: plain}, "dwa": {0: other}}
    assert relative(methods, "dwa") == pytest.approx(2.0)
