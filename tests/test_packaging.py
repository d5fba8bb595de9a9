"""The package as others install it: the methods alone, with types, on torch alone."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import weighting

ROOT = Path(__file__).resolve().parent.parent
METHOD_CLASSES = [pytest.param(kind, id=name) for name, kind in weighting.METHODS.items()]
OPTIONS = ("--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir", "--disable-pip-version-check", "--quiet")

USE = """
import sys, weighting
from weighting.testing import check_weighter
assert weighting.__file__.startswith(sys.argv[1]), weighting.__file__
told = check_weighter(weighting.method("uniform"))
assert told.ok, told
heavy = {"benchmarks", "pandas", "pyarrow", "scipy", "sklearn", "transformers", "matplotlib", "pydantic", "yaml"}
heavy |= {"pytest", "hypothesis"}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built without the network, from a copy, since building leaves files beside the source."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("weighting", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "traces"))
    command = [sys.executable, "-m", "pip", "wheel", *OPTIONS, "--wheel-dir", str(built), str(source)]
    subprocess.run(command, check=True)
    (found,) = built.iterdir()
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "weighting").rglob("*.py")} | {"weighting/py.typed"}
    assert {"weighting/testing/contract.py", "weighting/testing/claims.py"} <= expected
    assert set(names) == expected


def test_torch_is_the_only_dependency(metadata: Message) -> None:
    assert metadata.get_all("Requires-Dist") == ["torch>=2.4"]
    assert metadata["Name"] == "weighting"
    assert metadata["Version"] == "0.3.0"


def test_installed_package_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", *OPTIONS, "--target", str(place), str(wheel)], check=True)
    # The place goes before all others on the path; the source tree is not on it, since the folder is another.
    program = f"import sys; sys.path.insert(0, sys.argv[1])\n{USE}"
    command = [sys.executable, "-c", program, str(place)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", weighting.__all__)
def test_public_names_have_docstrings(name: str) -> None:
    value = getattr(weighting, name)
    if name == "METHODS":
        return
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        assert undocumented(value) == []


@pytest.mark.parametrize("kind", METHOD_CLASSES)
def test_methods_have_docstrings(kind: type[weighting.Weighter]) -> None:
    module = sys.modules[kind.__module__].__doc__ or ""
    assert kind.__doc__
    assert [word for word in ("Source", "Symbols", "Departs") if f"\n{word} " not in module] == []
    assert undocumented(kind) == []


def undocumented(kind: type) -> list[str]:
    """Public functions that the class defines itself, without a docstring of their own."""
    own = {name: getattr(value, "__func__", value) for name, value in vars(kind).items() if not name.startswith("_")}
    return [name for name, value in own.items() if inspect.isfunction(value) and not value.__doc__]


def test_a_missing_docstring_would_be_found() -> None:
    class Silent:
        def said(self) -> None:
            """Something."""

        def unsaid(self) -> None:
            pass

    assert undocumented(Silent) == ["unsaid"]
