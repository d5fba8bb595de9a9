"""Small suites as files, and their plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from places import TESTS

from benchmarks.planning.plan import Filters, Plan, make_plan
from benchmarks.planning.suite import read_suite

OWN = TESTS / "tiny_problem.py"


TINY = f"{OWN}:Tiny"


def plan_of(folder: Path, content: dict[str, Any] | str, filters: Filters | None = None) -> Plan:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return make_plan(read_suite(str(path)), filters or Filters(), "cpu")


def suite(**changes: Any) -> dict[str, Any]:
    return {"seeds": [0], "problems": [TINY], "weighters": ["uniform"], **changes}


def labels(plan: Plan) -> list[str]:
    return list(dict.fromkeys(run.weighter.label for run in plan.runs))
