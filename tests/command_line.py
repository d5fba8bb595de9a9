"""Commands, called as a user calls them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.cli import main as command_line
from benchmarks.cli import parsers


def train(suite: Path, *words: str) -> int:
    """Train a suite file in this process, into folders beside it. Returns the exit code."""
    folder = suite.parent
    places = ["--out", str(folder / "out"), "--plots", str(folder / "plots")]
    return command_line.main([str(suite), "--trust", "--executor", "here", *places, *words])


@dataclass
class Said:
    """What a command answered."""

    code: int
    stdout: str
    stderr: str


class Bench:
    """Calls commands in this process; suites of tests lie in other folders, and their code is trusted."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *arguments: str) -> Said:
        name = arguments[0] if arguments and arguments[0] in parsers.COMMANDS else "run"
        trust = ["--trust"] if "--trust" in parsers.options_of(name) else []
        code = command_line.main([*arguments, *trust])
        return Said(code, *self.capfd.readouterr())


@pytest.fixture
def bench(capfd: pytest.CaptureFixture[str]) -> Bench:
    return Bench(capfd)


def assert_refused(said: Said, *fragments: str) -> None:
    """Bad input: exit code 2, one line on stderr that has the fragments, and nothing else."""
    assert (said.code, said.stdout) == (2, "")
    assert said.stderr.startswith("error: ")
    assert said.stderr.endswith("\n")
    assert said.stderr.count("\n") == 1
    for fragment in fragments:
        assert fragment in said.stderr
