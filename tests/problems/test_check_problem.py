"""``run_bench.py check-problem``: the contract of a problem, and for every check a problem that it must reject."""

from __future__ import annotations

import pytest
import torch
from broken_problems import BROKEN, Broken
from places import TESTS
from tiny_problem import SCALES, Needy, Network, RowsTiny, Tiny
from tiny_variants import FrozenTiny, NoisyTiny
from torch import Tensor

from benchmarks.cli import main as command_line
from benchmarks.contract import DATA_RULE, Batch, Problem
from benchmarks.testing import check_problem
from benchmarks.testing.case import Case
from benchmarks.testing.data import bytes_of
from benchmarks.testing.report import CHECKS
from weighting.testing.elsewhere import elsewhere
from weighting.testing.report import ask


def test_every_check_has_a_broken_problem() -> None:
    assert {kind.breaks for kind in BROKEN} == set(CHECKS)


class BatchNorm(NoisyTiny):
    small = {"kind": "batch norm"}


class DrawsOfNumPy(NoisyTiny):
    small = {"kind": "numpy"}


class PartlyLabelled(Tiny):
    """Each task has labels for some of the examples; its mean is over those, 0 / 0 where there are none."""

    name = "partly_labelled"

    def counts(self, batch: Batch) -> Tensor:
        return self._labelled(batch).sum(0)

    def _errors(self, model: Network, batch: Batch) -> Tensor:
        hidden, here = model(batch["x"]), self._labelled(batch)
        errors = [
            ((model.heads[task](hidden)[:, 0] - batch["y"][:, list(SCALES).index(task)]).square() * here[:, place]).sum()
            for place, task in enumerate(self.tasks)
        ]
        return torch.stack(errors) / here.sum(0)

    def _labelled(self, batch: Batch) -> Tensor:
        return batch["x"][:, [list(SCALES).index(task) for task in self.tasks]] > -0.3


RIGHT: list[type[Problem]] = [Tiny, RowsTiny, NoisyTiny, BatchNorm, DrawsOfNumPy, FrozenTiny, PartlyLabelled]
OF_PROCESSES = "bytes_are_the_same_in_another_process"


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_problem_passes(kind: type[Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes in another process are in the test below."""
    monkeypatch.delitem(CHECKS, OF_PROCESSES)
    told = check_problem(kind)
    assert told.ok, str(told)
    assert {result.name for result in told.results if result.left_out} <= {"counts are sane"}


def bytes_of_right_ones(_kind: type) -> dict[str, dict[str, str]]:
    return {kind.__name__: bytes_of(kind) for kind in RIGHT}


@pytest.mark.slow
def test_right_problems_have_the_same_bytes_in_another_process() -> None:
    """All in one process, as starting it takes longer than all that it does."""
    here, there = bytes_of_right_ones(Tiny), elsewhere(bytes_of_right_ones, Tiny)
    assert len(here) == len(RIGHT)
    assert there == here


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.name)
def test_a_broken_problem_is_caught_by_its_own_check(kind: type[Broken]) -> None:
    told = ask(kind.breaks, CHECKS[kind.breaks], Case(kind), kind.name)
    assert told.message is not None and not told.ok
    assert all(word in told.message for word in kind.says), told.message
    assert "\n" not in told.message


def test_what_cannot_be_made_is_one_result() -> None:
    told = check_problem(Needy)
    assert [result.name for result in told.results] == ["can be made"]
    assert "KeyError" in str(told.results[0].message) and "\n" not in str(told.results[0].message)


@pytest.mark.slow
def test_the_command_names_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    place = f"{TESTS / 'broken_problems.py'}:HoldsItsTasksOnly"
    assert command_line.main(["check-problem", place]) == 1
    told = capsys.readouterr().out
    assert "a task alone has the same data                  FAILED" in told
    assert DATA_RULE in told
    assert told.splitlines()[-1] == "failed: a task alone has the same data"


@pytest.mark.slow
def test_the_command_takes_a_listed_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["check-problem", "famo_toy"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == "everything that was checked holds"
    assert "splits share no rows                            left out: batches have no rows" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no/such/file.py:Class"], "expected a file at no/such/file.py"),
        (["code_lms"], "did you mean 'code_lm'?"),
        ([], "expected problem, found none"),
        (["code_lm", "famo_toy"], "expected no further word, found 'famo_toy'"),
        ([f"{TESTS / 'tiny_problem.py'}:NoLosses"], "found no losses"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["check-problem", *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
