"""The oldest versions of the adapters' libraries are said in three places, and are the same in all of them."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest
from places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
RUN = dict(re.findall(r"library: (\w+)==([\d.]+)", (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")))
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
NAMED = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|", PAGE, re.MULTILINE)
SAID = {name.lower(): (newest, oldest) for name, newest, oldest in NAMED}


@pytest.mark.parametrize("library", ["transformers", "trl", "accelerate", "lightning"])
def test_the_bound_of_an_extra_is_the_version_that_is_run_and_named(library: str) -> None:
    (bound,) = [each.partition(">=")[2] for each in EXTRAS[library] if each.startswith(f"{library}>=")]
    assert RUN[library].startswith(bound)
    assert SAID[library][1] == RUN[library]


def test_the_page_names_nothing_older_than_what_is_installed_here() -> None:
    """A newer library that the tests run with is a newer one to name."""
    packaging = pytest.importorskip("packaging.version")
    assert set(SAID) == set(RUN)
    for library, (newest, _) in SAID.items():
        assert packaging.Version(newest) >= packaging.Version(version(library)), library
