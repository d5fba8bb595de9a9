"""A machine without a browser runs everything else and says what was left out; in CI it fails, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import browsers
import pytest
from places import ROOT


@pytest.mark.parametrize("name", browsers.NAMES)
def test_any_chromium_on_the_path_will_do(name: str, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    assert browsers.find(environment) is None
    (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / name).chmod(0o755)
    assert browsers.find(environment) == tmp_path / name


def test_playwrights_own_will_do(tmp_path: Path) -> None:
    own = tmp_path / ".cache/ms-playwright/chromium-1200/chrome-linux/chrome"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert browsers.find({"PATH": "", "HOME": str(tmp_path)}) == own


def without_a_browser(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The tests of the page and one other, where no browser is to be found."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    kept |= {"PATH": str(tmp_path), "HOME": str(tmp_path), **environment}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/report/test_html_browser.py",
        "tests/analysis/test_scales.py",
    ]
    return subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_without_a_browser_the_rest_runs_and_says_so(tmp_path: Path) -> None:
    done = without_a_browser(tmp_path)
    assert done.returncode == 0, done.stdout
    *_, said, counted = done.stdout.strip().splitlines()
    assert "passed" in counted and "error" not in counted
    assert said.startswith("left out: the tests of report.html in a browser, since none was found; ")
    assert browsers.HOW in said


@pytest.mark.slow
def test_in_ci_a_missing_browser_fails_once(tmp_path: Path) -> None:
    done = without_a_browser(tmp_path, CI="true")
    assert done.returncode == 1
    assert "1 error" in done.stdout and "expected a Chromium or Chrome, found none" in done.stdout


def test_no_test_reads_outside_the_repository() -> None:
    words = ("ROOT.parent", "../" + "shared", "parents[2]")
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py"))}
    del texts[Path(__file__).name]
    assert [name for name, text in texts.items() if any(word in text for word in words)] == []
