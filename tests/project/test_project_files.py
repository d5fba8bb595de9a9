"""The files around the code: citation, licence, forms, hooks and workflows are valid and agree with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from ruamel.yaml import YAML

import weighting


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def read(name: str) -> Any:
    return YAML(typ="safe", pure=True).load(text(name))


def pins() -> dict[str, str]:
    lines = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("requirements*.txt"))
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lines, flags=re.MULTILINE))


def test_the_citation_has_what_the_format_asks_for() -> None:
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert all(set(author) & {"name", "family-names"} for author in citation["authors"])
    assert citation["version"] == weighting.__version__
    assert citation["license"] == "MIT"
    assert text("LICENSE").startswith("MIT License\n")
    holder = citation["authors"][0]["name"]
    assert f" {holder}\n" in text("LICENSE")


@pytest.mark.parametrize("folder", ["tests/traces", "tests/data/*"])
def test_every_recorded_program_and_data_set_is_in_the_notices(folder: str) -> None:
    """Repositories are named with the commit that made the numbers."""
    pages = [
        path.read_text(encoding="utf-8") for place in ROOT.glob(folder) for path in place.glob("*") if path.suffix != ".gz"
    ]
    sources = {found for page in pages for found in re.findall(r"([\w-]+/[\w-]+)(?:@| at commit )([0-9a-f]{40})", page)}
    assert sources
    notices = text("NOTICES")
    missing = [name for name, commit in sources if f"github.com/{name}, commit" not in notices or commit[:7] not in notices]
    assert missing == []


def test_changes_say_whether_they_move_results() -> None:
    rows = [
        line
        for line in text("CHANGELOG.md").splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| change"))
    ]
    told = [row.rstrip("| ").rsplit("| ", 1)[1] for row in rows]
    assert len(told) > 10
    assert [entry for entry in told if entry.split()[0].rstrip(",") not in {"no", "tables", "yes"}] == []
    heads = re.findall(r"^(.*)\n\| --- \| --- \|$", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert set(heads) == {"| change | moves results |"}


def test_contributing_is_short_and_its_commands_exist() -> None:
    page = text("CONTRIBUTING.md")
    assert len(page.splitlines()) <= 60
    targets = set(re.findall(r"`?make ([a-z-]+)", page))
    assert targets
    assert targets <= set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.MULTILINE))


def test_make_help_names_every_target() -> None:
    told = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)", text("Makefile"), flags=re.MULTILINE)
    assert [line.split()[0] for line in told.splitlines()] == phony.split()


@pytest.mark.parametrize("target", ["test", "lower-bounds", "conformance", "soak", "reference"])
def test_targets_name_files_that_exist(target: str) -> None:
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", target]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"(?:tests|docs|requirements)[\w/.-]*\.(?:py|txt)", told))
    assert named
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def test_the_form_of_a_method_asks_for_what_a_method_needs() -> None:
    form = read(".github/ISSUE_TEMPLATE/method.yml")
    assert {"name", "description", "body"} <= set(form)
    kinds = {"input", "textarea", "checkboxes", "dropdown", "markdown"}
    assert [field for field in form["body"] if field["type"] not in kinds or "label" not in field["attributes"]] == []
    assert {"paper", "code", "claims", "trace"} <= {field["id"] for field in form["body"]}


def test_hooks_use_the_pinned_tools() -> None:
    hooks = [hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {"large-files", "yaml", "end-of-file", "ruff-check", "ruff-format"} == {hook["id"] for hook in hooks}
    ruff = {hook["additional_dependencies"][0] for hook in hooks if hook["entry"].startswith("ruff ")}
    assert ruff == {f"ruff=={pins()['ruff']}"}


def test_workflows_name_files_and_targets_that_exist() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    assert {"lint", "tests", "lower-bounds", "adapters-lower-bounds", "optional-parts-missing"} == set(jobs)
    assert {row["os"].split("-")[0] for row in jobs["tests"]["strategy"]["matrix"]["include"]} == {"ubuntu", "macos"}
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    assert [name for name in re.findall(r"-r (\S+)", commands) if not (ROOT / name).is_file()] == []
    makefile = text("Makefile")
    targets = re.findall(r"make ([a-z-]+)", commands)
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)] == []


@pytest.mark.slow
def test_results_of_tests_can_be_written_as_junit(tmp_path: Path) -> None:
    """Tests of traces record properties, which not every form of the file takes; warnings are errors."""
    file = tmp_path / "junit.xml"
    which = ["tests/weighting/test_traces.py", "-k", "same_weights and gls", "-p", "no:cacheprovider", f"--junit-xml={file}"]
    done = subprocess.run([sys.executable, "-m", "pytest", *which], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert 'name="conformance"' in file.read_text(encoding="utf-8")
