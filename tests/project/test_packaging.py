"""The distribution as others install it: methods on torch alone, the command with its data, one list of dependencies."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

import weighting
from benchmarks.records import provenance

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
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a distribution is built from, as a copy, since building leaves files beside it."""
    place = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICES"):
        shutil.copy(ROOT / name, place)
    for name in ("weighting", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "traces", "data"))
    return place


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built without the network."""
    built = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "pip", "wheel", *OPTIONS, "--wheel-dir", str(built), str(source)]
    subprocess.run(command, check=True)
    (found,) = built.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the path that holds the installed wheel and nothing else."""
    place = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "pip", "install", *OPTIONS, "--target", str(place), str(wheel)], check=True)
    return place


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow
def test_wheel_holds_both_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "weighting", "benchmarks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name for name in tracked if (ROOT / name).is_file()}
    data = {Path(name).suffix for name in expected}
    assert {".py", ".yaml", ".html", ".css", ".js", ".typed", ".bib"} == data
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    licences = {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICES"}


@pytest.mark.slow
def test_source_distribution_carries_the_licences(source: Path, tmp_path: Path) -> None:
    program = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run(command, check=True, cwd=source, capture_output=True)
    (found,) = tmp_path.iterdir()
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICES", "weighting/coba.py", "benchmarks/suites/quick.yaml"} <= names


@pytest.mark.slow
def test_torch_is_the_only_dependency_of_the_methods(metadata: Message) -> None:
    required = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    assert [str(one) for one in required if one.marker is None] == ["torch>=2.4"]
    assert metadata["Name"] == "mtl-weighting"
    assert metadata["Version"] == weighting.__version__
    assert metadata["License-Expression"] == "MIT"
    assert {"bench", "finetune", "track", "docs", "test"} <= set(metadata.get_all("Provides-Extra") or [])


def elsewhere(installed: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that finds the installed wheel and not the source tree."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.slow
def test_methods_work_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    done = elsewhere(installed, sys.executable, "-c", USE, str(installed), cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.slow
def test_the_console_script_works_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    done = elsewhere(installed, str(installed / "bin" / "mtl-bench"), "quick", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "to train" in done.stdout
    told = elsewhere(installed, str(installed / "bin" / "mtl-bench"), "check", "--help", cwd=tmp_path)
    assert "usage: mtl-bench check" in told.stdout


@pytest.mark.slow
def test_without_the_benchmark_s_packages_the_command_is_one_line(installed: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['pydantic'] = None; from benchmarks.cli.main import run; sys.exit(run())"
    done = elsewhere(installed, sys.executable, "-c", program, "quick", "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: expected pydantic, not found: pip install 'mtl-weighting[bench]'\n"


@pytest.mark.slow
def test_a_module_of_our_own_that_is_missing_is_no_matter_of_installing(installed: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['benchmarks.planning'] = None; from benchmarks.cli.main import run; sys.exit(run())"
    done = elsewhere(installed, sys.executable, "-c", program, "quick", "--dry-run", cwd=tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_an_installed_package_has_no_commit_of_what_lies_around_it(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        told = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", *told, *words], cwd=tmp_path, check=True, capture_output=True)

    inside = tmp_path / "environment" / "provenance.py"
    inside.parent.mkdir()
    inside.touch()
    git("init")
    git("commit", "--allow-empty", "-m", "of another project")
    assert provenance.commit_of(inside) is None
    git("add", "--all")
    git("commit", "-m", "now of this one")
    assert re.fullmatch("[0-9a-f]{12}", provenance.commit_of(inside) or "")


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def stated(*extras: str) -> dict[str, Requirement]:
    """Package -> its range, of the methods and of extras, which may name others."""
    found: dict[str, Requirement] = {}
    for line in [
        *PYPROJECT["dependencies"],
        *(line for extra in extras for line in PYPROJECT["optional-dependencies"][extra]),
    ]:
        requirement = Requirement(line)
        own = requirement.name == PYPROJECT["name"]
        found |= stated(*sorted(requirement.extras)) if own else {canonicalize_name(requirement.name): requirement}
    return found


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock file and of those that it includes."""
    found: dict[str, str] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        content = line.partition("#")[0].strip()
        if content.startswith("-r "):
            found |= locked(content[3:])
        elif content:
            package, version = content.split("==")
            found[canonicalize_name(Requirement(package).name)] = version
    return found


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.txt", ["bench"]),
        ("requirements-test.txt", ["test"]),
        ("requirements-finetune.txt", ["bench", "finetune"]),
        ("requirements-ray.txt", ["bench", "ray"]),
    ],
)
def test_the_lock_pins_what_the_project_states_and_nothing_else(lock: str, extras: list[str]) -> None:
    ranges, pins = stated(*extras), locked(lock)
    assert sorted(pins) == sorted(ranges)
    outside = {name: (pin, str(ranges[name])) for name, pin in pins.items() if pin not in ranges[name].specifier}
    assert outside == {}


def test_every_extra_is_in_a_lock() -> None:
    assert set(stated(*PYPROJECT["optional-dependencies"])) == {
        *locked("requirements-test.txt"),
        *locked("requirements-finetune.txt"),
        *locked("requirements-ray.txt"),
    }


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
