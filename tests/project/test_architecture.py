"""The rules of the layout: what each package may import and do, and that the page about it names every module."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

import weighting
from benchmarks.problems import LISTED

LAYERS = (
    ("weighting",),
    ("benchmarks.errors", "benchmarks.seeds", "benchmarks.suites"),
    ("benchmarks.contract",),
    ("benchmarks.problems", "benchmarks.shared_layer"),
    ("benchmarks.catalog",),
    ("benchmarks.records",),
    ("benchmarks.analysis",),
    ("benchmarks.planning",),
    ("benchmarks.harness",),
    ("benchmarks.report", "benchmarks.testing"),
    ("benchmarks.overhead", "benchmarks.papers", "benchmarks.regression"),
    ("benchmarks.cli",),
)
"""From the ground up: a module imports from its own package and from lower layers only."""

FORBIDDEN = {
    "weighting": r"(?!torch\b|weighting\b)|weighting\.integrations\b",
    "weighting.integrations": r"(?!torch\b|weighting\b|transformers\b|trl\b|datasets\b|accelerate\b|lightning\b)",
    "benchmarks.problems": r"weighting\b(?!\._checks$)",
    "benchmarks.planning": r"matplotlib|jinja2|pyarrow|torch\.optim",
    "benchmarks.analysis": r"matplotlib|jinja2|plotly|benchmarks\.records\.files",
    "benchmarks.report": r"scipy|torch|benchmarks\.analysis\.(statistics|paired|delta_m|relative_cost|selection_score)\b",
    "benchmarks.testing": r"pytest|hypothesis",
    "weighting.testing": r"pytest|hypothesis",
}
"""Package -> modules that it does not import, as the beginning of a pattern."""

ADAPTERS = "weighting.integrations"
"""The one part of ``weighting`` that imports other libraries, each module on use."""

LISTS = {
    "benchmarks/planning/plan.py": "the controls of every comparison",
    "benchmarks/regression/false_alarms.py": "the problem that is measured",
    "benchmarks/regression/golden_runs.py": "runs in which the gradient norms are seen",
    "benchmarks/regression/planted.py": "the methods that it breaks",
    "benchmarks/report/palette.py": "fixed colours",
    "benchmarks/overhead/short_runs.py": "a short comparison beside hand-written loops",
    "benchmarks/overhead/adapter_steps.py": "trainers of others beside themselves under methods",
    "benchmarks/overhead/steps.py": "hand-written PyTorch beside a method",
    "benchmarks/overhead/finetune_steps.py": "loops with transformers beside methods",
    "benchmarks/overhead/anchors.py": "the same methods in other libraries",
    "benchmarks/overhead/gramian_steps.py": "three situations in which gradients of all tasks are taken",
    "benchmarks/overhead/weighter_steps.py": "hand-written PyTorch beside a method",
    "benchmarks/records/migrate.py": "records of a form that had no versions",
    "benchmarks/records/renames.py": "records that call methods otherwise",
    "benchmarks/analysis/comparable.py": "what others are held against",
}
"""Files beside the lists that say a name of a method or problem, and why."""


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules that a file imports, wherever in it; ``from a import b`` is a.b where that is a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = ROOT / node.module.replace(".", "/") / alias.name
                is_module = inner.with_suffix(".py").exists() or (inner / "__init__.py").exists()
                names.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return frozenset(names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> list[Path]:
    return sorted(path for package in ("weighting", "benchmarks") for path in (ROOT / package).rglob("*.py"))


def layer_of(module: str) -> int | None:
    return next((place for place, layer in enumerate(LAYERS) if any(is_within(module, each) for each in layer)), None)


def package_of(module: str) -> str:
    return next(each for layer in LAYERS for each in layer if is_within(module, each))


def breaches(path: Path, name: str) -> Iterator[str]:
    own = layer_of(name)
    assert own is not None, f"{name} is in no layer"
    for module in imported(path):
        other = layer_of(module)
        if other is not None and (other > own or (other == own and package_of(module) != package_of(name))):
            yield f"{name} imports {module}"


def test_imports_point_one_way() -> None:
    files = [path for path in modules() if path != ROOT / "benchmarks" / "__init__.py"]
    assert [breach for path in files for breach in breaches(path, name_of(path))] == []


def test_an_import_the_wrong_way_would_be_found(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("import torch\nfrom benchmarks.harness.loop import Loop\nfrom benchmarks.records import schema\n")
    assert list(breaches(planted, "benchmarks.planning.planted")) == [
        "benchmarks.planning.planted imports benchmarks.harness.loop"
    ]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_leaves_to_others_what_is_theirs(package: str) -> None:
    pattern = re.compile(FORBIDDEN[package])
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in modules()
        if is_within(name_of(path), package) and not (package == "weighting" and is_within(name_of(path), ADAPTERS))
        for module in imported(path)
        if pattern.match(module) and module.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_harness_and_records_alone_write_records() -> None:
    calls = re.compile(r"\b(write_run|write_files)\(")
    writers = {name_of(path).rpartition(".")[0] for path in modules() if calls.search(path.read_text(encoding="utf-8"))}
    assert writers == {"benchmarks.harness", "benchmarks.records"}


@pytest.mark.parametrize("package", ["benchmarks.analysis", "benchmarks.planning"])
def test_numbers_and_plans_are_made_without_writing(package: str) -> None:
    writes = re.compile(r"\.write_(text|bytes)\(|\.to_(csv|parquet|json)\(|\.save(fig)?\(|open\([^)]*[\"'][wax]")
    wrong = [
        name_of(p) for p in modules() if is_within(name_of(p), package) and writes.search(p.read_text(encoding="utf-8"))
    ]
    assert wrong == []


ARITHMETIC = re.compile(
    r"(nan)?(mean|std|var|median|quantile|percentile|min|max|sum|prod|arg(min|max)|cum(sum|prod))|average|ptp|sort_values|"
    r"(arg)?sort|searchsorted|interp|histogram|unique|groupby|pivot_table|agg|linspace|corr|dot|convolve|polyfit"
)
"""What makes numbers of numbers, in numpy and in pandas."""


def arithmetic_in(path: Path) -> list[str]:
    """Calls of such a method or function. ``finite.any()`` and ``x + 1`` only place what is drawn."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [call.attr for call in calls if isinstance(call, ast.Attribute) and ARITHMETIC.fullmatch(call.attr)]


def test_the_report_computes_nothing() -> None:
    files = [path for path in modules() if is_within(name_of(path), "benchmarks.report")]
    assert {name_of(path): found for path in files if (found := arithmetic_in(path))} == {}


def test_arithmetic_in_the_report_would_be_found(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("low = np.quantile(values, 0.1)\nmean = frame[name].mean()\nshown = np.isfinite(values).any()\n")
    assert arithmetic_in(planted) == ["quantile", "mean"]


def names_said(path: Path) -> set[str]:
    """Names of methods and problems that stand as a string of their own in a file."""
    listed = {*weighting.names(), *LISTED} - {"static", "random"}
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and node.value in listed}


def test_only_lists_know_names() -> None:
    own = re.compile(r"^(weighting/|benchmarks/(problems|papers)/)")
    saying = {
        str(path.relative_to(ROOT)): names_said(path)
        for path in modules()
        if not own.match(str(path.relative_to(ROOT))) and names_said(path)
    }
    assert set(saying) == set(LISTS), saying


def test_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent for path in modules()}
    named = [path for path in modules() if path.name != "__init__.py"] + sorted(folders)
    assert [str(path.relative_to(ROOT)) for path in named if path.name.removesuffix(".py") not in page] == []
