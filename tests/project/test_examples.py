"""The examples run, and show what they say."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from ruamel.yaml import YAML

from benchmarks.catalog import weighter_class
from benchmarks.cli import main as command_line
from weighting.testing import check_weighter

EXAMPLES = ROOT / "examples"
ROW = re.compile(r"(\w+): loss ([\d.]+) weight ([\d.]+)")


@pytest.mark.slow
def test_plain_pytorch_trains(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "plain_pytorch.py")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    lines = [ROW.findall(line) for line in done.stdout.splitlines()]
    assert len(lines) > 2
    for (task, first, at_first), (same_task, last, at_last) in zip(lines[0], lines[-1], strict=True):
        assert task == same_task
        assert float(last) < 0.5 * float(first)
        assert at_first != at_last


def test_own_method_is_planned_beside_the_listed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert command_line.main(["examples/own_method.yaml", "--dry-run", "--out", str(tmp_path)]) == 0
    (weighters,) = re.findall(r"^ *weighters +(.*)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert {"uniform", "coba", "LagWeighting"} <= set(weighters.split(", "))


@pytest.mark.slow
def test_a_gramian_method_of_ones_own_holds_the_contract_in_ten_lines() -> None:
    path = EXAMPLES / "own_gramian_method.py"
    report = check_weighter(weighter_class(f"{path}:EqualLengths"))
    assert report.ok, str(report)
    (kind,) = (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef))
    docstrings = sum(isinstance(node, ast.Expr) for node in ast.walk(kind))
    assert kind.end_lineno is not None
    lines = path.read_text(encoding="utf-8").splitlines()[kind.lineno - 1 : kind.end_lineno]
    assert sum(bool(line.strip()) for line in lines) - docstrings <= 10


def test_the_suite_is_small() -> None:
    suite = YAML(typ="safe", pure=True).load((EXAMPLES / "own_method.yaml").read_text(encoding="utf-8"))
    assert len(suite["seeds"]) == 1
    assert suite["training"]["steps"] <= 200


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name != "README.md"]
    assert len(files) >= 3
    assert [name for name in files if f"({name})" not in page] == []
