"""Suites and plans: what a YAML file may say, and the keys of its runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suites import OWN, TINY, labels, plan_of, suite

from benchmarks.catalog import AUTO, hyperparameters_in_run, make_problem
from benchmarks.contract import Training
from benchmarks.errors import UserError
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.problems import LISTED
from benchmarks.problems.finetune import models
from benchmarks.records.schema import RunSpec
from benchmarks.suites import suite_names
from weighting import METHODS, RunFacts

# ---- what a suite says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suite_names())
def test_listed_suites_can_be_planned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One of them needs a package with a model, which most environments lack.
    monkeypatch.setattr(models, "installed_file", lambda: tmp_path)
    file = read_suite(name)
    has_model = all(entry.name != "finetune_lm" for entry in file.suite.problems)
    plan = make_plan(file, Filters(), "cpu", to_train=has_model)
    assert len({run.key for run in plan.runs}) == len(plan.runs)
    assert {run.problem.name for run in plan.runs} <= set(LISTED)
    for problem in {run.problem.name for run in plan.runs}:
        runs = [run for run in plan.runs if run.problem.name == problem]
        assert {"uniform", "random"} <= {run.weighter.name for run in runs}
        tasks = {task for run in runs for task in run.problem.tasks}
        assert {run.problem.tasks for run in runs if run.role == "single_task"} == {(task,) for task in tasks}


def test_a_plan_is_problems_by_seeds_by_weighters_with_the_controls(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, suite(seeds=[3, 1], weighters=["famo"], question="Who?"))
    assert (plan.suite, plan.question) == ("mine", "Who?")
    found = [(run.seed, run.weighter.label, run.role, run.problem.tasks) for run in plan.runs]
    tasks = ("small", "medium", "large")
    assert found == [
        row
        for seed in (3, 1)
        for row in [
            *((seed, label, "method", tasks) for label in ("famo", "uniform", "random")),
            *((seed, "single_task", "single_task", (task,)) for task in tasks),
        ]
    ]


def test_lists_are_a_grid_and_labels_name_what_differs(tmp_path: Path) -> None:
    entry = {"name": "coba", "tau": [2, 5.0], "update_every": [1, 2], "warmup": 6}
    plan = plan_of(tmp_path, suite(weighters=["uniform", entry]))
    assert labels(plan) == [
        "uniform",
        "coba[tau=2]",
        "coba[tau=2, update_every=2]",
        "coba",
        "coba[update_every=2]",
        "random",
        "single_task",
    ]
    chosen = next(run.weighter.hyperparameters for run in plan.runs if run.weighter.name == "coba")
    assert chosen == {
        "warmup": 6,
        "window": AUTO,
        "tau": 2,
        "update_every": 1,
        "losses_from": "validation",
        "prior": None,
    }


def test_a_list_for_a_list_is_one_value_and_a_list_of_lists_a_grid(tmp_path: Path) -> None:
    one = plan_of(tmp_path, suite(weighters=[{"name": "static", "weights": [1.0, 2.0, 3.0]}]))
    assert labels(one)[0] == "static"
    two = plan_of(tmp_path, suite(weighters=[{"name": "static", "weights": [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]}]))
    assert labels(two)[:2] == ["static[weights=(1, 2, 3)]", "static[weights=(3, 2, 1)]"]


def test_two_entries_of_one_method_are_told_apart(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, suite(weighters=["dwa", {"name": "dwa", "temperature": 5.0}]))
    assert labels(plan)[:2] == ["dwa", "dwa[temperature=5]"]


def test_a_problem_changes_the_suite_for_itself(tmp_path: Path) -> None:
    entry = {
        "name": TINY,
        "options": {"noise": 0.5, "tasks": ["large", "small"]},
        "training": {"steps": 7, "lr": 0.5},
        "seeds": [9],
        "weighters": ["famo", "static"],
        "hyperparameters": {"static": {"weights": [1.0, 2.0]}},
    }
    content = suite(problems=[TINY, entry], training={"steps": 11, "batch_size": 4})
    runs = plan_of(tmp_path, content).runs
    first = [run for run in runs if run.seed == 0]
    second = [run for run in runs if run.seed == 9]
    assert {run.training.steps for run in first} == {11}
    assert {(run.training.steps, run.training.lr, run.training.batch_size) for run in second} == {(7, 0.5, 4)}
    assert [run.weighter.label for run in second] == ["famo", "static", "uniform", "random", "single_task", "single_task"]
    assert [run.problem.tasks for run in second][-3:] == [("large", "small"), ("large",), ("small",)]
    assert {run.problem.options["noise"] for run in second} == {0.5}
    static = next(run.weighter for run in second if run.weighter.name == "static")
    assert static.hyperparameters == {"weights": [1.0, 2.0], "losses_from": "training", "prior": None}


def test_filters(tmp_path: Path) -> None:
    other = {"name": "multidigits", "options": {"train_pairs": 100}}
    content = suite(problems=[TINY, other], weighters=["uniform", "famo"])

    def runs(**filters: Any) -> list[RunSpec]:
        return plan_of(tmp_path, content, Filters(**filters)).runs

    assert {run.problem.name for run in runs(problems=["multidigits"])} == {"multidigits"}
    assert {run.weighter.label for run in runs(weighters=["famo", "single_task"])} == {"famo", "single_task"}
    assert {run.weighter.label for run in runs(weighters=["random"])} == {"random"}
    assert {run.seed for run in runs(seeds=[4, 5])} == {4, 5}
    assert {run.training.steps for run in runs(steps=3)} == {3}
    assert {run.key for run in runs(weighters=["famo"])} < {run.key for run in runs()}


def test_defaults_that_depend_on_the_run_are_filled_in_when_it_is_known(tmp_path: Path) -> None:
    runs = plan_of(tmp_path, suite(weighters=["dwa", {"name": "coba", "window": 9}])).runs
    facts = RunFacts(steps=20, steps_per_epoch=5, val_batches=2, seed=77)
    used = {
        run.weighter.name: hyperparameters_in_run(run.weighter.name, run.weighter.hyperparameters, facts) for run in runs
    }
    assert used["dwa"] == {"temperature": 2.0, "window": 5, "losses_from": "training", "prior": None}
    assert used["coba"]["window"] == 9
    assert used["coba"]["warmup"] == METHODS["coba"].defaults_for(facts)["warmup"]
    assert used["random"] == {"seed": 77, "losses_from": "training", "prior": None}


@pytest.mark.parametrize("form", ["absolute path", "relative path", "module"])
def test_classes_of_the_users_own(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(OWN.parent)
    place = {"absolute path": str(OWN), "relative path": OWN.name, "module": "tiny_problem"}[form]
    entry = {"name": f"{place}:Fine", "share": [0.25, 0.75]}
    plan = plan_of(tmp_path, suite(problems=[f"{place}:Tiny"], weighters=[entry, f"{place}:Raises"]))
    assert labels(plan) == ["Fine[share=0.25]", "Fine[share=0.75]", "Raises", "uniform", "random", "single_task"]
    assert make_problem(plan.runs[0].problem.name, plan.runs[0].problem.tasks, plan.runs[0].problem.options).name == "tiny"
    assert all(run.problem.source for run in plan.runs)
    assert [run.weighter.source is not None for run in plan.runs] == [True] * 3 + [False] * 5


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    return plan_of(tmp_path, suite(weighters=["famo"])).runs[0]


CHANGES: dict[str, Callable[[RunSpec], RunSpec]] = {
    "seed": lambda run: run.model_copy(update={"seed": 1}),
    "device": lambda run: run.model_copy(update={"device": "cuda"}),
    "role": lambda run: run.model_copy(update={"role": "single_task"}),
    "problem": lambda run: run.model_copy(update={"problem": run.problem.model_copy(update={"name": "x"})}),
    "option": lambda run: run.model_copy(
        update={"problem": run.problem.model_copy(update={"options": {**run.problem.options, "noise": 0.2}})}
    ),
    "tasks": lambda run: run.model_copy(update={"problem": run.problem.model_copy(update={"tasks": ("small",)})}),
    "order of tasks": lambda run: run.model_copy(
        update={"problem": run.problem.model_copy(update={"tasks": run.problem.tasks[::-1]})}
    ),
    "source of the problem": lambda run: run.model_copy(update={"problem": run.problem.model_copy(update={"source": "x"})}),
    "weighter": lambda run: run.model_copy(update={"weighter": run.weighter.model_copy(update={"name": "x"})}),
    "source of the weighter": lambda run: run.model_copy(
        update={"weighter": run.weighter.model_copy(update={"source": "x"})}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_part_of_a_run_is_in_its_key(change: str, spec: RunSpec) -> None:
    assert CHANGES[change](spec).key != spec.key


@pytest.mark.parametrize("name", ["lr", "gamma", "min_losses", "lookahead"])
def test_every_hyperparameter_is_in_the_key_even_as_a_default(name: str, spec: RunSpec) -> None:
    changed = {**spec.weighter.hyperparameters, name: "another"}
    assert name in spec.weighter.hyperparameters
    assert (
        spec.model_copy(update={"weighter": spec.weighter.model_copy(update={"hyperparameters": changed})}).key != spec.key
    )


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # names of choices are changed into numbers
@pytest.mark.parametrize("name", Training.model_fields)
def test_every_training_setting_is_in_the_key_even_as_a_default(name: str, spec: RunSpec) -> None:
    value = getattr(spec.training, name)
    changed = spec.training.model_copy(update={name: value + 1 if isinstance(value, int) else 0.123})
    assert spec.model_copy(update={"training": changed}).key != spec.key


def test_the_label_is_not_in_the_key(spec: RunSpec, tmp_path: Path) -> None:
    assert spec.model_copy(update={"weighter": spec.weighter.model_copy(update={"label": "another"})}).key == spec.key
    pair = plan_of(tmp_path, suite(weighters=["famo", {"name": "famo", "gamma": 0.01}])).runs
    assert [run.weighter.label for run in pair[:2]] == ["famo", "famo[gamma=0.01]"]
    assert pair[0].key == spec.key


def test_a_default_that_is_written_out_is_the_same_run(spec: RunSpec, tmp_path: Path) -> None:
    content = suite(
        problems=[{"name": TINY, "options": {"noise": 0.1}}],
        training={"steps": 20},
        weighters=[{"name": "famo", "gamma": 0.001, "lookahead": "same_batch"}],
    )
    assert plan_of(tmp_path, content).runs[0].key == spec.key


def test_the_key_is_a_fixed_function_of_the_run() -> None:
    """Whoever changes it makes every recorded run unknown, and should mean to."""
    content = {
        "problem": {"name": "p", "options": {"a": 1}, "tasks": ["x", "y"]},
        "weighter": {"name": "w", "label": "w", "hyperparameters": {"h": 0.5}},
        "seed": 0,
        "training": {"steps": 5},
    }
    spec = RunSpec.model_validate_json(json.dumps(content))
    assert spec.key == RunSpec.model_validate_json(spec.model_dump_json()).key == "e22f9c1bf642dde7"


def test_a_changed_source_is_another_run(tmp_path: Path) -> None:
    copy = tmp_path / "own.py"
    shutil.copy(OWN, copy)
    content = suite(problems=[f"{copy}:Tiny"], weighters=[f"{copy}:Fine", "famo"])
    before = plan_of(tmp_path, content).runs
    copy.write_text(copy.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    after = plan_of(tmp_path, content).runs
    assert not {run.key for run in before} & {run.key for run in after}
    assert [run.weighter.label for run in before] == [run.weighter.label for run in after]


# ---- the shared layer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("sharde", "unknown module 'sharde'; did you mean 'shared'? known: shared"),
        ("[shared, nowhere]", "unknown module 'nowhere'"),
        ("7", "expected"),
    ],
)
def test_a_wrong_shared_layer_is_known_with_the_plan(layer: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"seeds: [0]\nproblems:\n  - name: '{TINY}'\n    training: {{shared_layer: {layer}}}\nweighters: [gradnorm]\n"
    )
    with pytest.raises(UserError) as error:
        make_plan(read_suite(str(path)), Filters(), "cpu")
    assert words in str(error.value) and str(error.value).startswith(f"{path}:4: problems[0].training")
    assert "\n" not in str(error.value)


def test_the_shared_layer_is_part_of_the_run(tmp_path: Path) -> None:
    keys = set()
    for layer in ("shared", "[heads]", "[shared, heads.small]"):
        path = tmp_path / "mine.yaml"
        path.write_text(
            f"seeds: [0]\nproblems:\n  - name: '{TINY}'\n    training: {{shared_layer: {layer}}}\nweighters: [gradnorm]\n"
        )
        (run,) = make_plan(read_suite(str(path)), Filters(weighters=["gradnorm"]), "cpu").runs
        keys.add(run.key)
    assert len(keys) == 3


def test_a_frozen_shared_layer_is_known_with_the_plan(tmp_path: Path) -> None:
    own = tmp_path / "frozen.py"
    own.write_text(
        "from tiny_problem import Tiny\n"
        "class FrozenTiny(Tiny):\n"
        "    def model(self, seed):\n"
        "        model = super().model(seed)\n"
        "        model.shared.requires_grad_(False)\n"
        "        return model\n"
    )
    path = tmp_path / "mine.yaml"
    path.write_text(f"seeds: [0]\nproblems: ['{own}:FrozenTiny']\nweighters: [gradnorm]\n")
    with pytest.raises(
        UserError, match=r"mine.yaml:2: problems\[0\]: tiny: expected trained parameters in the shared layer"
    ):
        make_plan(read_suite(str(path)), Filters(), "cpu")


def test_a_plan_that_trains_nothing_builds_no_model(tmp_path: Path) -> None:
    own = tmp_path / "dear.py"
    own.write_text(
        "from tiny_problem import Tiny\nclass Dear(Tiny):\n"
        "    def model(self, seed):\n        raise MemoryError('no room')\n"
    )
    path = tmp_path / "mine.yaml"
    path.write_text(f"seeds: [0]\nproblems: ['{own}:Dear']\nweighters: [gradnorm]\n")
    with pytest.raises(UserError, match=r"mine.yaml:2: problems\[0\]: MemoryError: no room"):
        make_plan(read_suite(str(path)), Filters(), "cpu")
    assert len(make_plan(read_suite(str(path)), Filters(weighters=["gradnorm"]), "cpu", to_train=False).runs) == 1
