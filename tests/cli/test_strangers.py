"""Suites, records and checkpoints that came from strangers run no code, and what they are called is only text."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands_at_work import in_process, jobs_of
from fake_runs import make, write_suite
from suites import suite_file
from written_records import change

from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.catalog import code_of_the_user, problem_class, trust
from benchmarks.cli import main as command_line
from benchmarks.errors import UserError
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.records.storage import run_folders
from benchmarks.report.html.page import write_html
from benchmarks.report.table_files import write_table


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file that leaves a trace when its code runs."""
    path = tmp_path / "theirs" / "code.py"
    path.parent.mkdir()
    path.write_text(
        "from pathlib import Path\n"
        "Path(__file__).with_name('has run').touch()\n"
        "from benchmarks.problems.famo_toy import FamoToy as Theirs\n",
        encoding="utf-8",
    )
    return path


def has_run(theirs: Path) -> bool:
    return theirs.with_name("has run").exists()


def places(tmp_path: Path) -> list[str]:
    return ["--out", str(tmp_path / "out"), "--plots", str(tmp_path / "plots")]


@pytest.mark.parametrize("how", ["elsewhere", "by a link"])
@pytest.mark.parametrize("kind", ["problems", "weighters"])
def test_a_suite_from_another_folder_runs_no_code(
    kind: str, how: str, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = suite_file(theirs.parent, **{"problems": ["famo_toy"], kind: [f"{theirs}:Theirs"]})
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    if how == "by a link":
        Path("suite.yaml").symlink_to(path)
        path = Path("suite.yaml")
    assert command_line.main([str(path), "--dry-run", *places(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert f"{theirs}:Theirs: expected code named by a suite in this folder, found it named elsewhere; --trust" in said
    assert said.startswith(f"error: {path}:") and said.count("\n") == 1
    assert not has_run(theirs)


def test_it_does_where_the_user_says_so(theirs: Path, tmp_path: Path) -> None:
    path = suite_file(theirs.parent, problems=[f"{theirs}:Theirs"])
    assert command_line.main([str(path), "--trust", "--dry-run", *places(tmp_path)]) == 0
    assert has_run(theirs)


def test_a_suite_of_the_command_s_own_folder_needs_no_word(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suite_file(theirs.parent, problems=[f"{theirs}:Theirs"])
    monkeypatch.chdir(tmp_path)
    assert command_line.main([str(path.relative_to(tmp_path)), "--dry-run", *places(tmp_path)]) == 0
    assert has_run(theirs)


def test_a_suite_from_another_folder_that_names_no_code_needs_no_word_either(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suite_file(theirs.parent, problems=["famo_toy"])
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert command_line.main([str(path), "--dry-run", *places(tmp_path)]) == 0


@pytest.mark.parametrize("trusting", [False, True])
def test_records_run_no_code(trusting: bool, theirs: Path, tmp_path: Path) -> None:
    """Not even in the folder of the command, where records of strangers are put to be compared."""
    for job in jobs_of(suite_file(tmp_path), "uniform"):
        in_process(job)
    folder = tmp_path / "out" / "mine"
    (place,) = run_folders(folder)
    run = json.loads((place / "run.json").read_bytes())["run"]
    run["problem"]["name"] = f"{theirs}:Theirs"
    change(place, run=run)
    shutil.copytree(folder, tmp_path / "other")
    words = ["compare", str(folder), str(tmp_path / "other"), *(["--trust"] if trusting else [])]
    assert command_line.main(words) == 0
    assert has_run(theirs) == trusting


def test_what_a_command_has_trusted_is_forgotten_after_it(theirs: Path) -> None:
    name = f"{theirs}:Theirs"
    with code_of_the_user():
        trust([name])
        assert problem_class(name).name == "famo_toy"
    with code_of_the_user(), pytest.raises(UserError, match="expected code named by a suite in this folder"):
        problem_class(name)
    assert problem_class(name).name == "famo_toy"


class Leaves:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "0123456789abcdef")
    checkpoint.save({"step": Leaves(tmp_path / "has run")})
    content = checkpoint.path.read_bytes()
    assert hashlib.sha256(content[32:]).digest() == content[:32]
    assert checkpoint.load(torch.device("cpu")) is None
    assert not (tmp_path / "has run").exists()
    assert not checkpoint.path.exists()


NAMES = (
    "<script>alert(1)</script>",
    "</script><b>",
    "\"><img src=x onerror='alert(1)'>",
    "../../../outside",
    "/outside",
    "a\nb",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_the_page_and_no_path(name: str, tmp_path: Path) -> None:
    runs = [make(method, seed, problem=name, tasks=(name, "right")) for method in ("uniform", "famo") for seed in (0, 1)]
    folder = write_suite(tmp_path / "deep" / "er" / "fake", runs)
    before = {path for path in tmp_path.rglob("*") if folder not in path.parents}
    tables = suite_tables(folder)
    text = write_html(tables, name).read_text(encoding="utf-8")
    for raw in ("<script>alert", "</script><b>", "<img src=x"):
        assert raw not in text
    shown = [each.overview for each in tables.sections]
    written = [path for table in (*shown, *tables.summaries) for path in write_table(folder / "tables", table)]
    assert written
    assert {path.parent for path in written} == {folder / "tables"}
    assert {path for path in tmp_path.rglob("*") if folder not in path.parents} == before
    assert all(re.fullmatch(r"[\w.@-]+", path.name) for path in written)
