"""The rooms of the house: imports point one way, and every file is listed where it should be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "weighting": ("benchmarks", "run_bench", "numpy", "pandas", "transformers"),
    "benchmarks/problems": ("weighting", "benchmarks.harness", "benchmarks.report", "benchmarks.cost"),
    "benchmarks/protocol": ("benchmarks.report", "benchmarks.cost", "benchmarks.commands", "run_bench"),
    "benchmarks/harness": (
        "benchmarks.protocol",
        "benchmarks.report",
        "benchmarks.cost",
        "benchmarks.published",
        "benchmarks.commands",
        "run_bench",
    ),
    "benchmarks/html": ("benchmarks.harness", "benchmarks.protocol", "benchmarks.cost", "benchmarks.commands", "run_bench"),
    "benchmarks/analysis": (
        "matplotlib",
        "plotly",
        "benchmarks.harness",
        "benchmarks.protocol",
        "benchmarks.report",
        "benchmarks.html",
        "benchmarks.reproduce",
        "benchmarks.regression",
        "benchmarks.cost",
        "benchmarks.commands",
        "run_bench",
    ),
    "benchmarks/report": (
        "benchmarks.html",
        "benchmarks.harness",
        "benchmarks.protocol",
        "benchmarks.cost",
        "benchmarks.reproduce",
        "benchmarks.commands",
        "run_bench",
    ),
    "benchmarks/regression": ("benchmarks.commands", "benchmarks.cost", "run_bench"),
    "benchmarks/published": ("benchmarks.reproduce", "benchmarks.report", "benchmarks.commands", "run_bench"),
    "benchmarks/reproduce": ("benchmarks.cost", "benchmarks.commands", "run_bench"),
    "weighting/testing": ("pytest", "hypothesis"),
    "benchmarks/testing": ("benchmarks.report", "benchmarks.regression", "benchmarks.commands", "pytest", "run_bench"),
    "benchmarks/cost": ("benchmarks.commands", "run_bench"),
}

ALLOWED = {"weighting.checks"}
"""The contract may be known where the methods may not."""


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def is_within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported(path)
        for forbidden in FORBIDDEN[room]
        if is_within(module, forbidden) and module not in ALLOWED
    ]
    assert wrong == []


def test_an_import_the_wrong_way_would_be_found(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("import torch\nfrom benchmarks.harness.loop import Loop\n")
    assert any(is_within(module, "benchmarks.harness") for module in imported(planted))


def test_architecture_page_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [
        path
        for folder in ("weighting", "benchmarks", "benchmarks/harness", "benchmarks/analysis")
        for path in (ROOT / folder).iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    ]
    assert [path.name for path in rooms if path.name not in page] == []
