"""Without Ray everything else runs, tests say what they left out, and the command says in one line what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray_cluster
from command_line import Bench, assert_refused
from commands_at_work import everywhere
from places import ROOT
from suites import suite_file


def without_ray(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The tests of a cluster and one other, where Ray cannot be imported."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS", "RAY_EXPECTED")}
    kept |= everywhere(tmp_path, "import sys\nsys.modules['ray'] = None\n") | environment
    files = ["tests/harness/test_ray.py", "tests/analysis/test_scales.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    return subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_without_ray_the_rest_runs_and_says_so(tmp_path: Path) -> None:
    done = without_ray(tmp_path)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout.splitlines()[-1]
    said = [line for line in done.stdout.splitlines() if line.startswith("left out: the tests of a cluster, ")]
    assert len(said) == 1 and ray_cluster.HOW in said[0]


@pytest.mark.slow
def test_where_it_is_expected_a_missing_ray_fails_once(tmp_path: Path) -> None:
    done = without_ray(tmp_path, RAY_EXPECTED="true")
    assert done.returncode == 1
    assert "1 error" in done.stdout.splitlines()[-1] and "expected Ray, found none" in done.stdout


def test_the_command_says_what_it_lacks(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "benchmarks.harness.ray_executor", raising=False)
    places = ("--out", str(tmp_path / "out"), "--plots", str(tmp_path / "plots"))
    said = bench(str(suite_file(tmp_path)), "--weighters", "uniform", "--executor", "ray", *places)
    assert said.code == 2
    assert said.stderr == "error: --executor ray: expected Ray, not found: pip install 'mtl-weighting[ray]'\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--address", "auto"), "--address: expected --executor ray with it, found --executor local"),
        (("--new-processes", "--executor", "here"), "--new-processes: expected --executor ray with it, found"),
        (
            ("--executor", "ray", "--address", "ray://head:10001"),
            "expected auto, local or HOST:PORT, found 'ray://head:10001'",
        ),
        (("--executor", "ray", "--address", "head"), "expected auto, local or HOST:PORT, found 'head'"),
        (("--executor", "ray", "--device", "cuda:1"), "--devices: expected cpu or cuda with --executor ray"),
    ],
)
def test_options_of_a_cluster_are_checked_before_anything_is_planned(
    words: tuple[str, ...], told: str, bench: Bench, tmp_path: Path
) -> None:
    assert_refused(bench(str(suite_file(tmp_path)), "--out", str(tmp_path), *words), told)


def test_a_plan_for_a_cluster_needs_neither_a_gpu_nor_ray_here(bench: Bench, tmp_path: Path) -> None:
    words = ("--executor", "ray", "--address", "auto", "--device", "cuda", "--dry-run", "--out", str(tmp_path))
    said = bench(str(suite_file(tmp_path)), *words)
    assert (said.code, said.stderr) == (0, "")
    assert "as many at a time as the cluster has room for on cuda" in said.stdout
