"""The README: its commands exist, its code runs, and its numbers and pictures are those of the committed reference."""

from __future__ import annotations

import csv
import itertools
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.cli import commands
from benchmarks.cli import main as command_line
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.records.storage import read_run

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith(("python run_bench.py", "make "))
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6
    assert "make bench" in COMMANDS
    assert "make test" in COMMANDS


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python ")])
def test_commands_are_understood(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[2:]
    if words[:1] and words[0] in set(commands.COMMANDS) - {"run"}:
        assert command_line.main([*words, "--nonsense"]) == 2
        assert "--nonsense" in capsys.readouterr().err
        return
    assert command_line.main([*words, "--dry-run", "--out", str(tmp_path)]) == 0
    assert "to train" in capsys.readouterr().out


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_code_runs(block: str) -> None:
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert {"weighter", "step_losses"} & set(names)


def test_ci_calls_the_documented_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_table_is_that_of_the_reference() -> None:
    summary = (ROOT / "results" / "reference" / "quick" / "summary.txt").read_text(encoding="utf-8")
    assert summary.strip() in README


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_the_full_suite_is_the_suites_of_the_four_problems() -> None:
    def keys(suite: str) -> set[str]:
        return {run.key for run in make_plan(read_suite(suite), Filters(), "cpu").runs}

    parts = ("multidigits", "code_lm", "gradnorm_toy", "famo_toy")
    assert keys("full") == set().union(*(keys(part) for part in parts))


def test_the_reference_is_small_and_complete() -> None:
    files = [path for folder in ("results", "plots") for path in (ROOT / folder / "reference").rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 32e6
    for suite in ("quick", "full"):
        planned = {run.key for run in make_plan(read_suite(suite), Filters(), "cpu").runs}
        runs = (ROOT / "results" / "reference" / suite / "runs").iterdir()
        assert planned <= {read_run(path).record.key for path in runs}


def table_rows(page: str, header: str) -> list[list[str]]:
    """The cells of a page's table with this header."""
    lines = page.split(header)[1].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in itertools.takewhile(str.strip, lines)]


def reference(name: str) -> list[dict[str, str]]:
    with (ROOT / "results" / "reference" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_numbers_of_the_fair_comparison_are_those_of_the_reference() -> None:
    tuned = {row["method"]: row for row in reference("fair/tables/multidigits_tuned.csv")}
    verdicts = {row["method"]: row for row in reference("fair/tables/multidigits_verdict_tuned.csv")}

    def cell(row: dict[str, str], key: str) -> str:
        return f"{float(row[key]):.1f} ± {float(row[key + '.se']):.1f}"

    expected = [
        [
            method,
            *(cell(row, key) for key in ("default", "tuned")),
            cell(verdicts[method], "change") if method in verdicts else "",
            verdicts[method]["verdict"] if method in verdicts else "",
        ]
        for method, row in tuned.items()
    ]
    assert table_rows(README, "| method | default | tuned | tuned against tuned uniform | verdict |") == expected
    uniform = expected[0]
    assert uniform[0] == "uniform"
    assert f"tuning changes uniform weights by {float(tuned['uniform']['change']):.1f} when both" in README


def test_the_claims_are_those_of_the_reproductions() -> None:
    expected = []
    for paper in ("famo", "gradnorm", "coba"):
        page = (ROOT / "results" / "reference" / f"reproduce_{paper}" / "reproduce.md").read_text(encoding="utf-8")
        rows = table_rows(page, "| claim | verdict | numbers | criterion |")
        expected += [[paper, claim, verdict] for claim, verdict, *_ in rows]
    assert table_rows(README, "| paper | claim | here |") == expected


def test_the_error_rates_are_those_of_the_reference() -> None:
    keys = {"false": 1, "covered": 1, "power1.0": 0}
    expected = [
        [row["pairs"], *(f"{float(row[key]):.{digits}f}" if row[key] else "\N{EN DASH}" for key, digits in keys.items())]
        for row in reference("aa/tables/multidigits_calibration.csv")
    ]
    assert table_rows(README, "| pairs | false positives % | 95 % interval covers 0, % | power % at 1 sd |") == expected
