"""The example workflow: valid YAML, actions pinned, no secrets, and commands that the command line understands."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from places import ROOT
from ruamel.yaml import YAML

from benchmarks.cli.parsers import parse
from benchmarks.errors import UserError

TEXT = (ROOT / "examples" / "ci" / "check-weighter.yml").read_text(encoding="utf-8")
# YAML 1.1 reads the key `on` as true; only text is read here.
WORKFLOW: dict[str, Any] = YAML(typ="safe", pure=True).load(TEXT)
STEPS: list[dict[str, Any]] = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
DOCUMENTED = [line.lstrip("# ").strip() for line in TEXT.splitlines() if line.startswith("#") and "run_bench.py" in line]
COMMANDS = [step["run"] for step in STEPS if "run_bench.py" in step.get("run", "")]


def words_of(command: str) -> list[str]:
    python, script, *words = shlex.split(command)
    assert (python, script) == ("python", "run_bench.py")
    return words


def test_the_parts_of_a_workflow_are_there() -> None:
    assert {"name", "on", "permissions", "jobs"} == set(WORKFLOW)
    assert {"pull_request", "push"} == set(WORKFLOW["on"])
    assert WORKFLOW["permissions"] == {"contents": "read"}
    for job in WORKFLOW["jobs"].values():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job)
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_actions_are_pinned_and_nothing_is_secret() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert len(used) == 4
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", each) for each in used)
    assert "secrets." not in TEXT


def test_there_are_commands() -> None:
    assert [words_of(command)[0] for command in COMMANDS] == ["check-weighter", "check"]
    assert len(DOCUMENTED) == 2


@pytest.mark.parametrize("command", [*COMMANDS, *DOCUMENTED])
def test_commands_are_understood(command: str) -> None:
    """Options are parsed; what they name lies in another repository."""
    words = words_of(command)
    options = parse(words)
    assert options.command == (words[0] if words[0].startswith("check") else "run")
    for option in (word for word in words if word.startswith("--")):
        assert hasattr(options, option[2:].replace("-", "_"))


def test_an_unknown_option_would_be_found() -> None:
    with pytest.raises(UserError, match="--junitt"):
        parse([*words_of(COMMANDS[1]), "--junitt"])


def test_requirements_that_are_installed_exist() -> None:
    (install,) = [step["run"] for step in STEPS if "pip install" in step.get("run", "")]
    assert (ROOT / install.split()[-1]).is_file()
