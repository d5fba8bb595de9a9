"""The command line as a user types it: plans, filters, mistakes of one line, and a whole small run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Bench, Said, assert_refused
from places import ROOT
from suites import TINY, suite_file

from benchmarks.cli.parsers import COMMANDS, options_of
from benchmarks.records.storage import RUN_FILE, read_run, run_folders


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = suite_file(
        tmp_path,
        question="Who is the smallest?",
        seeds=[0, 1],
        problems=[TINY, {"name": "multidigits", "options": {"train_pairs": 100}}],
        weighters=["uniform", {"name": "coba", "tau": [2, 3]}],
    )
    return str(path)


@pytest.fixture
def out(tmp_path: Path) -> tuple[str, ...]:
    return ("--out", str(tmp_path / "out"), "--plots", str(tmp_path / "plots"))


def process(*arguments: str) -> Said:
    """A command in a process of its own, from the folder of the project."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "run_bench.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_touches_nothing(
    bench: Bench, suite: str, out: tuple[str, ...], tmp_path: Path
) -> None:
    said = bench(suite, "--dry-run", "--jobs", "2", *out)
    assert (said.code, said.stderr) == (0, "")
    lines = said.stdout.splitlines()
    assert lines[0] == "suite mine: Who is the smallest?"
    assert f"  {TINY}: 20 steps, seeds 0 1" in lines
    assert "    weighters    uniform, coba[tau=2], coba[tau=3], random" in lines
    assert "    single task  small, medium, large" in lines
    assert "28 runs: 0 recorded, 28 to train, 2 at a time on cpu, " in said.stdout
    runs = [line for line in lines if re.match(r"  [0-9a-f]{16}  to train", line)]
    assert len(runs) == len(set(runs)) == 28
    assert sum("multidigits, coba[tau=3], seed 1" in line for line in runs) == 1
    assert sum("single_task (large), seed 0" in line for line in runs) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--problems", "multidigits"], 14),
        (["--problems", f"{TINY},multidigits"], 28),
        (["--weighters", "coba"], 8),
        (["--weighters", "coba, single_task"], 20),
        (["--seeds", "5"], 14),
        (["--seeds=3,4,5"], 42),
        (["--weighters", "random", "--problems", "multidigits", "--seeds", "0"], 1),
    ],
)
def test_filters_leave_fewer_runs(filters: list[str], count: int, bench: Bench, suite: str) -> None:
    said = bench(suite, "--dry-run", *filters)
    assert said.code == 0
    assert f"\n{count} runs: " in said.stdout


def test_steps_are_those_of_the_command(bench: Bench, suite: str) -> None:
    assert "multidigits: 7 steps" in bench(suite, "--dry-run", "--steps", "7").stdout


@pytest.mark.parametrize("order", ["last", "first", "between"])
def test_options_stand_anywhere_after_the_command(order: str, bench: Bench, suite: str) -> None:
    options = ["--seeds", "4", "--dry-run"]
    arguments = {"last": ["run", suite, *options], "first": [*options, suite], "between": ["run", *options, suite]}
    assert "seeds 4\n" in bench(*arguments[order]).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_options_of_one_command_and_says_what_each_is(name: str) -> None:
    said = process(name, "--help")
    assert (said.code, said.stderr) == (0, "")
    options = options_of(name)
    assert all(options.values())
    assert set(re.findall(r"^  (?:-h, |--devices DEVICES, )?(--[a-z-]+)", said.stdout, re.MULTILINE)) == set(options)


def test_help_lists_the_commands_and_the_exit_codes_without_loading_torch() -> None:
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "run_bench.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(f"\n  {name} " in said.stdout for name in COMMANDS)
    assert "exit codes: 0 done" in said.stdout
    assert not re.search(r"\|\s+(torch|pandas|pydantic)$", said.stderr, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_other_commands_are_refused(
    name: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"compare": ["a", "b"], "reproduce": ["famo"], "check-weighter": ["dwa"], "check-problem": ["famo_toy"]}
    others = {option for other in COMMANDS for option in options_of(other)} - set(options_of(name))
    for option in others:
        assert_refused(bench(name, *words.get(name, []), option), f"{name}: expected no {option}, which belongs to ")
    assert list(tmp_path.iterdir()) == []


def test_the_suite_is_quick_unless_one_is_named(bench: Bench) -> None:
    assert bench("--dry-run").stdout == bench("run", "quick", "--dry-run").stdout != ""


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["quik"], ["unknown command or suite 'quik'", "did you mean 'quick'?"]),
        (["reprot"], ["unknown command or suite 'reprot'", "did you mean 'report'?"]),
        (["reprot", "quick"], ["unknown command or suite 'reprot'", "did you mean 'report'?"]),
        (["report", "quik"], ["unknown command or suite 'quik'", "did you mean 'quick'?"]),
        (["run", "quick", "full"], ["run: expected no further word, found 'full'"]),
        (["--seeds", "4", "report", "quick"], ["expected the command 'report' first, found it after other words"]),
        (["quick", "--problem", "multidigits"], ["unknown option '--problem'", "did you mean '--problems'?"]),
        (["quick", "--step=3"], ["unknown option '--step'", "did you mean '--steps'?"]),
        (["quick", "--weighters", "cobaa"], ["--weighters: unknown weighter 'cobaa'", "did you mean 'coba'?"]),
        (["quick", "--problems", "multidigit"], ["--problems: unknown problem 'multidigit'", "did you mean 'multidigits'?"]),
        (["quick", "--problems", ","], ["--problems", "expected at least one name, found none"]),
        (["quick", "--weighters"], ["--weighters", "expected one argument"]),
        (["quick", "--steps", "0"], ["--steps", "expected an integer >= 1, found '0'"]),
        (["quick", "--steps", "-5"], ["--steps", "expected an integer >= 1, found '-5'"]),
        (["quick", "--steps", "many"], ["--steps", "expected an integer >= 1, found 'many'"]),
        (["quick", "--jobs", "0"], ["--jobs", "expected an integer >= 1, found '0'"]),
        (["quick", "--seeds", ""], ["--seeds", "expected at least one name, found none"]),
        (["quick", "--seeds", "0,-1"], ["--seeds", "expected integers >= 0, separated by commas, found '0,-1'"]),
        (["quick", "--seeds", "0.5"], ["--seeds", "found '0.5'"]),
        (["quick", "--device", "gpu"], ["--devices: expected cpu, cuda, cuda:N or several as cuda:0-3,6, found 'gpu'"]),
        (["quick", "--device", "cuda:99"], ["--devices: expected devices that this machine has, found cuda:99 and"]),
        (["quick", "--device", "meta"], ["--devices: expected cpu, cuda, cuda:N", "found 'meta'"]),
        (["absent.yaml"], ["absent.yaml: expected a readable file: No such file or directory"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(
    arguments: list[str], fragments: list[str], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(bench(*arguments), *fragments)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_line_in_a_process_too(tmp_path: Path) -> None:
    assert_refused(process("quik", "--out", str(tmp_path)), "did you mean 'quick'?")


def test_the_place_of_a_mistake_in_a_suite_is_told(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("seeds: [0]\nproblems: [multidigits]\nweighters:\n  - {name: coba, tau: []}\n", encoding="utf-8")
    assert_refused(bench(str(path)), f"{path}:4: weighters[0].tau: expected at least one value, found an empty list")


@pytest.mark.parametrize("option", ["--out", "--plots"])
@pytest.mark.parametrize("depth", ["", "below/it"])
def test_a_folder_that_is_a_file(option: str, depth: str, bench: Bench, suite: str, tmp_path: Path) -> None:
    """As no other user's folder could stand for a forbidden place where tests run as root, a file does."""
    file = tmp_path / "file"
    file.write_text("precious", encoding="utf-8")
    folders = {"--out": str(tmp_path / "out"), "--plots": str(tmp_path / "plots"), option: str(file / depth)}
    said = bench(suite, *(word for pair in folders.items() for word in pair))
    assert said.code == 2
    assert said.stderr.startswith(f"error: expected a folder that can be written at {file}")
    assert said.stderr.count("\n") == 1
    assert file.read_text(encoding="utf-8") == "precious"
    assert list(run_folders(tmp_path / "out" / "mine")) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(bench: Bench, suite: str, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    said = bench(suite, "--out", str(folder), "--plots", str(tmp_path / "plots"))
    assert (said.code, said.stderr.count("\n")) == (2, 1)
    assert "Permission denied" in said.stderr


def test_a_report_without_records(bench: Bench, suite: str, out: tuple[str, ...], tmp_path: Path) -> None:
    said = bench("report", suite, *out)
    assert_refused(said, "expected recorded runs of suite 'mine' in", "found none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]


# ---- a whole run -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_from_beginning_to_end(suite: str, out: tuple[str, ...], bench: Bench, tmp_path: Path) -> None:
    """The plan first, then tables and pictures; nothing on stderr, which is no terminal here."""
    only = ["--problems", TINY, "--seeds", "0", "--steps", "10"]
    said = process(suite, "--trust", "--jobs", "2", *only, *out)
    assert (said.code, said.stderr) == (0, "")
    folder = tmp_path / "out" / "mine"
    runs = [read_run(place) for place in run_folders(folder)]
    assert sorted(run.label for run in runs) == ["coba[tau=2]", "coba[tau=3]", "random", *["single_task"] * 3, "uniform"]
    assert {run.record.state for run in runs} == {"finished"}
    assert {run.trajectory["step"].max() for run in runs} == {10}
    assert len({run.record.fingerprints for run in runs if run.record.run.role == "method"}) == 1
    assert len({run.record.fingerprints.initial_parameters for run in runs if run.record.fingerprints is not None}) == 1
    assert said.stdout.index("7 runs: 0 recorded, 7 to train") < said.stdout.index("tables: ")
    assert (folder / "report.md").is_file()
    assert list((tmp_path / "plots" / "mine").rglob("*.png"))

    # The report alone makes the same again, even where one of the runs is missing or damaged.
    (folder / "report.md").unlink()
    again = bench("report", suite, *only, *out)
    assert (again.code, again.stderr) == (0, "")
    assert (folder / "report.md").is_file()
    (folder / "runs" / runs[0].record.key / RUN_FILE).write_text("{", encoding="utf-8")
    damaged = bench("report", suite, *only, *out)
    assert damaged.code == 0
    assert "Traceback" not in damaged.stderr
    assert damaged.stderr.startswith("warning: 1 of 7 planned runs have no record that can be read")
    assert damaged.stderr.count("\n") == 1


def test_a_report_on_nothing_but_damaged_records(bench: Bench, suite: str, out: tuple[str, ...], tmp_path: Path) -> None:
    listed = bench(suite, "--dry-run", *out).stdout
    for key in re.findall(r"^  ([0-9a-f]{16})  ", listed, re.MULTILINE):
        place = tmp_path / "out" / "mine" / "runs" / key
        place.mkdir(parents=True)
        (place / RUN_FILE).write_text("{", encoding="utf-8")
    assert "28 runs: 0 recorded, 28 to train" in bench(suite, "--dry-run", *out).stdout
    assert_refused(bench("report", suite, *out), "expected recorded runs of suite 'mine' in", "found none")


def test_runs_of_unequal_length_are_compared_and_say_so(bench: Bench, out: tuple[str, ...], tmp_path: Path) -> None:
    training = {"patience": 1, "lr": 0.5, "evaluate_every": 5, "steps": 40}
    path = suite_file(tmp_path, training=training, seeds=[0, 1], weighters=["uniform", "famo"])
    assert bench(str(path), "--jobs", "1", *out).code == 0
    folder = tmp_path / "out" / "mine"
    runs = [read_run(each) for each in run_folders(folder)]
    ends = {int(run.trajectory["step"].max()) for run in runs}
    assert len(ends) > 1 and min(ends) < 40
    for run in runs:
        flags = {flag.name: flag.steps for flag in run.record.flags}
        end = int(run.trajectory["step"].max())
        assert flags.get("stopped_early") == (end if end < 40 else None)
        assert run.record.state == "finished" and run.record.costs is not None
    assert "| stopped early |" in (folder / "report.md").read_text(encoding="utf-8")
