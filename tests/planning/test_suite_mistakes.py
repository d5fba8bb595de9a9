"""Mistakes in suites and filters: one line with the file, the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from suites import OWN, TINY, labels, plan_of, suite

from benchmarks.errors import UserError
from benchmarks.planning.plan import Filters
from benchmarks.planning.suite import read_suite

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
