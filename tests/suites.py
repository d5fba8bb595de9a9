"""Small suites of the tiny problem as files, and their plans."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from places import TESTS
from ruamel.yaml import YAML

from benchmarks.planning.plan import Filters, Plan, make_plan
from benchmarks.planning.suite import read_suite

OWN = TESTS / "tiny_problem.py"
"""A file of the user's own, with a problem and methods."""
TINY = f"{OWN}:Tiny"


def as_yaml(content: Any) -> str:
    """Mappings and lists as the text of a YAML file."""
    text = StringIO()
    YAML().dump(content, text)
    return text.getvalue()


def suite(**changes: Any) -> dict[str, Any]:
    return {"seeds": [0], "problems": [TINY], "weighters": ["uniform"], **changes}


def suite_file(folder: Path, **changes: Any) -> Path:
    """The suite ``mine`` in a folder."""
    return _written(folder, as_yaml(suite(**changes)))


def plan_in(path: Path, filters: Filters | None = None) -> Plan:
    return make_plan(read_suite(str(path)), filters or Filters(), "cpu")


def plan_of(folder: Path, content: dict[str, Any] | str, filters: Filters | None = None) -> Plan:
    return plan_in(_written(folder, content if isinstance(content, str) else as_yaml(content)), filters)


def labels(plan: Plan) -> list[str]:
    return list(dict.fromkeys(run.weighter.label for run in plan.runs))


def _written(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path
