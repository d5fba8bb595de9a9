"""The contract tests and claims, run on one method: what ``run_bench.py check-weighter`` prints."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.catalog import weighter_class
from benchmarks.errors import UserError

ROOT = Path(__file__).parent.parent
TESTS = ("tests/test_weighter_contract.py", "tests/test_weighter_claims.py")
NEEDED = ("pytest", "hypothesis", "xdist")
CLAIM_TESTS = {"test_claims_hold": 1, "test_claims_on_sums_hold_for_any_positive_losses": 1}


@dataclass
class Check:
    """One property of the contract, or one claim, over all its cases."""

    name: str
    cases: int = 0
    failed: list[str] = field(default_factory=list)
    """Case and reason of each that failed."""


def check_weighter(place: str) -> tuple[str, bool]:
    """What to print, and whether all checks hold.

    place: a listed name or ``path/to/file.py:Class``. Raises UserError where there is no such method or no test tool.
    """
    kind = weighter_class(place)
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(f"check-weighter: expected the packages of requirements-test.txt, found no {', '.join(lacking)}")
    if not all((ROOT / test).exists() for test in TESTS):
        raise UserError(f"check-weighter: expected the project's tests in {ROOT / 'tests'}, found none")
    checks = _run(place)
    width = max(len(check.name) for check in checks)
    lines = [
        f"{kind.name}: {sum(check.cases for check in checks)} cases, claims: {', '.join(sorted(kind.claims)) or 'none'}",
        "",
    ]
    for check in checks:
        state = f"FAILED in {len(check.failed)} of {check.cases}" if check.failed else f"ok ({check.cases})"
        lines.append(f"  {check.name:{width}}  {state}")
        lines += [f"      {reason}" for reason in check.failed[:1]]
    failed = [check.name for check in checks if check.failed]
    lines += ["", f"failed: {', '.join(failed)}" if failed else "everything that was checked holds"]
    return "\n".join(lines), not failed


def _run(place: str) -> list[Check]:
    """All checks of a test run of its own, in its order."""
    own = place if ":" not in place else f"{Path(place.rpartition(':')[0]).resolve()}:{place.rpartition(':')[2]}"
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "told.xml"
        command = [sys.executable, "-m", "pytest", *TESTS, "--weighter", own, f"--junit-xml={told}", "-n", "auto", "-q"]
        command += ["-p", "no:cacheprovider", "--tb=short"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1) or not told.exists():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing was said"]
            raise UserError(f"{place}: the checks could not be run: {last[0]}")
        cases = ElementTree.parse(told).getroot().iter("testcase")
        checks: dict[str, Check] = {}
        for case in sorted(cases, key=lambda case: case.get("classname", ""), reverse=True):
            _add(checks, case)
    return list(checks.values())


def _add(checks: dict[str, Check], case: ElementTree.Element) -> None:
    test, _, setting = case.get("name", "").rstrip("]").partition("[")
    if case.find("skipped") is not None:
        return
    name = test.removeprefix("test_").replace("_", " ")
    if test in CLAIM_TESTS:
        name = f"claim {setting.rpartition('-')[2]}"
    check = checks.setdefault(name, Check(name))
    check.cases += 1
    problem = case.find("failure") if case.find("failure") is not None else case.find("error")
    if problem is not None:
        check.failed.append(f"{setting or test}: {_reason(problem)}")


def _reason(problem: ElementTree.Element) -> str:
    """The error in one line: its message, without the decoration of the test tool."""
    words = " ".join((problem.get("message") or problem.text or "no reason was given").split())
    words = re.sub(r"^AssertionError: ", "", words)
    return words if len(words) <= 160 else words[:157] + "..."
