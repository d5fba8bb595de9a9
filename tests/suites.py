"""Small suites as files, and their plans."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from places import TESTS
from ruamel.yaml import YAML

from benchmarks.planning.plan import Filters, Plan, make_plan
from benchmarks.planning.suite import read_suite

OWN = TESTS / "tiny_problem.py"


TINY = f"{OWN}:Tiny"


def as_yaml(content: Any) -> str:
    """Mappings and lists as the text of a YAML file."""
    text = StringIO()
    YAML().dump(content, text)
    return text.getvalue()


def plan_of(folder: Path, content: dict[str, Any] | str, filters: Filters | None = None) -> Plan:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else as_yaml(content), encoding="utf-8")
    return make_plan(read_suite(str(path)), filters or Filters(), "cpu")


def suite(**changes: Any) -> dict[str, Any]:
    return {"seeds": [0], "problems": [TINY], "weighters": ["uniform"], **changes}


def labels(plan: Plan) -> list[str]:
    return list(dict.fromkeys(run.weighter.label for run in plan.runs))
