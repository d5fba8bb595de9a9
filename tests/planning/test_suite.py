"""Suites and plans: what a YAML file may say, what it is told when it says something else, and the keys of its runs."""

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
from benchmarks.records.schema import RunSpec
from benchmarks.suites import suite_names
from weighting import METHODS, RunFacts

# ---- what a suite says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suite_names())
def test_listed_suites_can_be_planned(name: str) -> None:
    plan = make_plan(read_suite(name), Filters(), "cpu")
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
    assert spec.key == RunSpec.model_validate_json(spec.model_dump_json()).key == "e90088327a72b8dd"


def test_a_changed_source_is_another_run(tmp_path: Path) -> None:
    copy = tmp_path / "own.py"
    shutil.copy(OWN, copy)
    content = suite(problems=[f"{copy}:Tiny"], weighters=[f"{copy}:Fine", "famo"])
    before = plan_of(tmp_path, content).runs
    copy.write_text(copy.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    after = plan_of(tmp_path, content).runs
    assert not {run.key for run in before} & {run.key for run in after}
    assert [run.weighter.label for run in before] == [run.weighter.label for run in after]


# ---- mistakes --------------------------------------------------------------------------------------------------------

HEAD = "seeds: [0]\n"
PROBLEM = f"problems: [{{name: '{TINY}'}}]\n"
WEIGHTERS = "weighters: [uniform]\n"

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "unknown key": (HEAD + PROBLEM + WEIGHTERS + "weihgters: [famo]\n", [":4: weihgters", "did you mean 'weighters'?"]),
    "unknown key of a problem": (
        HEAD + f"problems:\n  - name: '{TINY}'\n    option: {{}}\n" + WEIGHTERS,
        [":4: problems[0].option", "did you mean 'options'?"],
    ),
    "unknown problem": (
        HEAD + "problems:\n  - multidigit\n" + WEIGHTERS,
        [":3: problems[0].name", "unknown problem 'multidigit'", "did you mean 'multidigits'?"],
    ),
    "unknown weighter": (
        HEAD + PROBLEM + "weighters:\n  - uniform\n  - cobaa\n",
        [":5: weighters[1].name", "unknown weighter 'cobaa'", "did you mean 'coba'?"],
    ),
    "unknown hyperparameter": (
        HEAD + PROBLEM + "weighters:\n  - {name: coba, taw: 5}\n",
        [":4: weighters[0].taw", "unknown hyperparameter 'taw'", "did you mean 'tau'?"],
    ),
    "unknown hyperparameter of a method without": (
        HEAD + PROBLEM + "weighters:\n  - {name: uniform, tau: 5}\n",
        [":4: weighters[0].tau", "unknown hyperparameter 'tau'", "known: losses_from"],
    ),
    "unknown option": (
        HEAD + f"problems: [{{name: '{TINY}', options: {{nose: 1.0}}}}]\n" + WEIGHTERS,
        [":2: problems[0].options.nose", "unknown option 'nose'", "did you mean 'noise'?"],
    ),
    "unknown training setting": (
        HEAD + "training: {step: 3}\n" + PROBLEM + WEIGHTERS,
        [":2: training.step", "did you mean 'steps'?"],
    ),
    "unknown training setting of a problem": (
        HEAD + f"problems: [{{name: '{TINY}', training: {{lrr: 3.0}}}}]\n" + WEIGHTERS,
        [":2: problems[0].training.lrr", "did you mean 'lr'?"],
    ),
    "unknown task": (
        HEAD + f"problems: [{{name: '{TINY}', options: {{tasks: [smal]}}}}]\n" + WEIGHTERS,
        [":2: problems[0].options", "expected tasks among small, medium, large", "'smal'"],
    ),
    "hyperparameters for an unnamed weighter": (
        HEAD + f"problems: [{{name: '{TINY}', hyperparameters: {{unifrm: {{}}}}}}]\n" + WEIGHTERS,
        [":2: problems[0].hyperparameters.unifrm", "did you mean 'uniform'?"],
    ),
    "grid without values": (
        HEAD + PROBLEM + "weighters:\n  - {name: coba, tau: []}\n",
        [":4: weighters[0].tau", "expected at least one value, found an empty list"],
    ),
    "no seeds": ("seeds: []\n" + PROBLEM + WEIGHTERS, [":1: seeds", "expected", "at least 1", "found []"]),
    "no problems": (HEAD + "problems: []\n" + WEIGHTERS, [":2: problems", "at least 1", "found []"]),
    "no weighters": (HEAD + PROBLEM + "weighters: []\n", [":3: weighters", "at least 1", "found []"]),
    "missing key": (PROBLEM + WEIGHTERS, ["expected the key 'seeds', found none"]),
    "problem without a name": (
        HEAD + "problems: [{seeds: [1]}]\n" + WEIGHTERS,
        [":2: problems[0]", "expected the key 'name'"],
    ),
    "negative seed": ("seeds: [-1]\n" + PROBLEM + WEIGHTERS, [":1: seeds[0]", "expected", "-1"]),
    "seed of a wrong type": (
        "seeds: [one]\n" + PROBLEM + WEIGHTERS,
        [":1: seeds[0]", "expected a valid integer, found 'one'"],
    ),
    "zero steps": (
        HEAD + "training: {steps: 0}\n" + PROBLEM + WEIGHTERS,
        [":2: training.steps", "expected", "greater than or equal to 1, found 0"],
    ),
    "steps of a wrong type": (
        HEAD + "training: {steps: many}\n" + PROBLEM + WEIGHTERS,
        [":2: training.steps", "expected a valid integer, found 'many'"],
    ),
    "steps as a fraction": (HEAD + "training: {steps: 2.5}\n" + PROBLEM + WEIGHTERS, [":2: training.steps", "found 2.5"]),
    "NaN learning rate": (
        HEAD + "training: {lr: .nan}\n" + PROBLEM + WEIGHTERS,
        [":2: training.lr", "expected", "found nan"],
    ),
    "unknown optimizer": (
        HEAD + "training: {optimizer: adan}\n" + PROBLEM + WEIGHTERS,
        [":2: training.optimizer", "expected 'adam', 'adamw' or 'sgd', found 'adan'"],
    ),
    "batch of nothing": (HEAD + "training: {batch_size: 0}\n" + PROBLEM + WEIGHTERS, [":2: training.batch_size", "found 0"]),
    "option of a wrong type": (
        HEAD + f"problems: [{{name: '{TINY}', options: {{noise: loud}}}}]\n" + WEIGHTERS,
        [":2: problems[0].options.noise", "expected a valid number, found 'loud'"],
    ),
    "option out of range": (
        HEAD + f"problems: [{{name: '{TINY}', options: {{noise: -1.0}}}}]\n" + WEIGHTERS,
        [":2: problems[0].options", "expected noise to be at least 0, found -1.0"],
    ),
    "NaN option": (
        HEAD + f"problems: [{{name: '{TINY}', options: {{noise: .nan}}}}]\n" + WEIGHTERS,
        [":2: problems[0].options", "expected noise to be at least 0, found nan"],
    ),
    "negative hyperparameter": (
        HEAD + PROBLEM + "weighters:\n  - {name: famo, gamma: [0.1, -0.1]}\n",
        [":4: weighters[0]", "expected gamma to be a finite number at least 0, found -0.1"],
    ),
    "NaN hyperparameter": (
        HEAD + PROBLEM + "weighters:\n  - {name: coba, tau: .nan}\n",
        [":4: weighters[0]", "expected tau to be a finite number above 0, found nan"],
    ),
    "hyperparameter of a wrong type": (
        HEAD + PROBLEM + "weighters:\n  - {name: coba, tau: [2, high]}\n",
        [":4: weighters[0].tau", "expected a valid number, found 'high'"],
    ),
    "hyperparameter out of a choice": (
        HEAD + PROBLEM + "weighters:\n  - {name: famo, lookahead: nex_batch}\n",
        [":4: weighters[0].lookahead", "expected 'same_batch' or 'next_batch', found 'nex_batch'"],
    ),
    "static weights of the wrong length": (
        HEAD + PROBLEM + "weighters:\n  - {name: static, weights: [1.0, 2.0]}\n",
        [":4: weighters[0]", "expected weights with 3 numbers, one per task, found 2", "Tiny"],
    ),
    "negative static weights": (
        HEAD + PROBLEM + "weighters:\n  - {name: static, weights: [1.0, -2.0, 1.0]}\n",
        [":4: weighters[0]", "at least 0, found -2.0"],
    ),
    "a weighter twice": (HEAD + PROBLEM + "weighters: [famo, famo]\n", ["expected every run once, found famo", "twice"]),
    "not a mapping": ("- uniform\n", ["expected a mapping", "found ['uniform']"]),
    "empty": ("", ["expected a mapping", "found None"]),
    "not YAML": ("seeds: [0\nproblems: x: y\n", ["expected YAML"]),
    "a tab": ("seeds:\n\t- 0\n", ["expected YAML", "line 2"]),
    "a number as a key": (HEAD + PROBLEM + WEIGHTERS + "1: 2\n", ["1"]),
    "a list as a key": (HEAD + PROBLEM + WEIGHTERS + "? [a]\n: 2\n", ["expected"]),
    "a number as a weighter": (HEAD + PROBLEM + "weighters: [3]\n", [":3: weighters[0]", "expected", "found 3"]),
    "a number as a hyperparameter's name": (HEAD + PROBLEM + "weighters: [{name: coba, 1: 2}]\n", [":3: weighters[0]"]),
    "a number as an option's name": (HEAD + f"problems: [{{name: '{TINY}', options: {{1: 2}}}}]\n" + WEIGHTERS, [":2: "]),
    "a number as a training setting": (HEAD + "training: {1: 2}\n" + PROBLEM + WEIGHTERS, [":2: training"]),
    "a date": (HEAD + "question: 2020-01-01\n" + PROBLEM + WEIGHTERS, [":2: question", "expected a valid string"]),
    "a value with a tag": (HEAD + "question: !mine 3\n" + PROBLEM + WEIGHTERS, ["expected YAML", "tag", "!mine"]),
    "a list that holds itself": (HEAD + "problems: &all [*all]\n" + WEIGHTERS, ["expected"]),
    "an inner key twice": (
        HEAD + f"problems:\n  - name: '{TINY}'\n    seeds: [0]\n    seeds: [1]\n" + WEIGHTERS,
        [":5: seeds", "expected the key once"],
    ),
    "a key twice": (HEAD + PROBLEM + WEIGHTERS + "seeds: [1]\n", [":4: seeds", "expected the key once"]),
    # Classes of the user's own.
    "file that is not there": (
        HEAD + "problems: ['nowhere.py:Tiny']\n" + WEIGHTERS,
        [":2: ", "expected a file at nowhere.py"],
    ),
    "class that is not there": (
        HEAD + f"problems: ['{OWN}:Tinny']\n" + WEIGHTERS,
        [":2: ", "unknown class 'Tinny'", "did you mean 'Tiny'?"],
    ),
    "module that is not there": (
        HEAD + "problems: ['no_such_module:Tiny']\n" + WEIGHTERS,
        [":2: ", "cannot be imported", "no_such_module"],
    ),
    "no module": (HEAD + "problems: [':Tiny']\n" + WEIGHTERS, [":2: ", "cannot be imported"]),
    "relative module": (HEAD + "problems: ['..own:Tiny']\n" + WEIGHTERS, [":2: ", "cannot be imported"]),
    "weighter where a problem should be": (
        HEAD + f"problems: ['{OWN}:Fine']\n" + WEIGHTERS,
        [":2: ", "expected a subclass of benchmarks.contract.Problem"],
    ),
    "problem that lacks a method": (
        HEAD + f"problems: ['{OWN}:NoLosses']\n" + WEIGHTERS,
        [":2: ", "expected every part of the contract Problem, found no losses"],
    ),
    "problem that cannot be made": (
        HEAD + f"problems: ['{OWN}:Needy']\n" + WEIGHTERS,
        [":2: problems[0]", "KeyError"],
    ),
    "weighter that lacks its method": (
        HEAD + PROBLEM + f"weighters: ['{OWN}:NoWeights']\n",
        [":3: ", "expected every part of the contract Weighter, found no weights"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_file_place_and_remedy(mistake: str, tmp_path: Path) -> None:
    text, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        plan_of(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "mine.yaml"))
    for fragment in expected:
        assert fragment in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("import no_such_module_at_all\n", "ModuleNotFoundError"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit(0)\n", "SystemExit"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("\x00", "cannot be imported"),
    ],
    ids=["import", "syntax", "exit", "error", "binary"],
)
def test_a_file_of_the_users_own_that_does_not_import(content: str, reason: str, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        plan_of(tmp_path, suite(problems=[f"{own}:Mine"]))
    message = str(caught.value)
    assert "\n" not in message
    assert "mine.yaml:4: problems[0].name" in message
    assert "cannot be imported" in message
    assert reason in message


def test_a_class_with_types_that_cannot_be_found_is_taken_as_it_is(tmp_path: Path) -> None:
    """Types that exist for a type checker alone are common; the values are then checked by the class itself."""
    own = tmp_path / "own.py"
    own.write_text(
        "from __future__ import annotations\n"
        "from weighting import Weighter\n"
        "class Mine(Weighter):\n"
        "    name = 'mine'\n"
        "    def __init__(self, num_tasks: int, *, batch_shape: Shape = (), share: Share = 1.0) -> None:\n"
        "        super().__init__(num_tasks, batch_shape=batch_shape)\n"
        "    def weights(self, now):\n"
        "        return now.losses\n",
        encoding="utf-8",
    )
    assert labels(plan_of(tmp_path, suite(weighters=[{"name": f"{own}:Mine", "share": 2}])))[0] == "Mine"


def test_a_required_option_must_be_given(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(OWN.parent)!r})\n"
        "from tiny_problem import Tiny\n"
        "class Mine(Tiny):\n"
        "    def __init__(self, *, tasks=None, level: int):\n"
        "        super().__init__(tasks=tasks)\n",
        encoding="utf-8",
    )
    with pytest.raises(UserError, match="expected the option 'level', found none"):
        plan_of(tmp_path, suite(problems=[f"{own}:Mine"]))
    entry = {"name": f"{own}:Mine", "options": {"level": 3}}
    assert plan_of(tmp_path, suite(problems=[entry])).runs[0].problem.options == {"level": 3}


def test_a_suite_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.yaml: expected a readable file: No such file or directory"):
        read_suite(str(tmp_path / "absent.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="expected a readable file: Is a directory"):
        read_suite(str(tmp_path / "folder.yaml"))
    (tmp_path / "latin.yaml").write_bytes("question: Größe\n".encode("latin-1"))
    with pytest.raises(UserError, match="expected UTF-8 text"):
        read_suite(str(tmp_path / "latin.yaml"))
    with pytest.raises(UserError, match=r"unknown suite 'multidigit'; did you mean 'multidigits'\?"):
        read_suite("multidigit")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(problems=["tiny"]), r"--problems: unknown problem 'tiny'; .*known: .*Tiny"),
        (Filters(weighters=["unifrm"]), r"--weighters: unknown weighter 'unifrm'; did you mean 'uniform'\?"),
        (Filters(weighters=["famo"]), "--weighters: unknown weighter 'famo'; .*known: single_task, uniform, random"),
    ],
)
def test_filters_that_name_what_the_suite_has_not(filters: Filters, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        plan_of(tmp_path, suite(), filters)


def test_numbers_with_an_exponent_and_no_point_are_numbers(tmp_path: Path) -> None:
    text = f"seeds: [0]\nproblems: ['{TINY}']\nweighters: [uniform]\ntraining: {{lr: 3e-4}}\n"
    assert {run.training.lr for run in plan_of(tmp_path, text).runs} == {3e-4}


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
