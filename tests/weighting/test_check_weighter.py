"""``run_bench.py check-weighter``: the contract and the claims, on a method of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from broken_contract import BROKEN, Broken, Right
from places import ROOT
from torch import Tensor

from benchmarks.catalog import weighter_class
from benchmarks.cli import main as command_line
from weighting import Observation
from weighting.testing import check_weighter
from weighting.testing.contract import IN_EVERY_SETTING, ONCE
from weighting.testing.report import ask
from weighting.testing.settings import Subject

FORGETFUL = '''
import torch
from weighting import Claim, Weighter


class Forgetful(Weighter):
    """Its step count is no state, and its weights are no longer positive from step ten on."""

    name = "forgetful"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT

    def __init__(self, num_tasks, *, batch_shape=()):
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.steps = 0

    def weights(self, now):
        return self.as_weights(torch.tensor(10.0 - self.steps), now)

    def update(self, after):
        self.steps += 1
'''


@pytest.mark.slow
def test_the_example_holds() -> None:
    told = check_weighter(weighter_class(str(ROOT / "examples" / "own_method.py") + ":LagWeighting"))
    assert told.ok, str(told)
    assert "resumes from its state" in str(told)
    assert "claim scale_free" in str(told)
    assert "FAILED" not in str(told)


@pytest.mark.slow
def test_faults_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "forgetful.py"
    file.write_text(FORGETFUL, encoding="utf-8")
    assert command_line.main(["check-weighter", f"{file}:Forgetful"]) == 1
    failed = capsys.readouterr().out.splitlines()[-1]
    assert "resumes from its state" in failed
    assert "claim nonnegative" in failed
    assert "claim permutation_equivariant" not in failed
    assert "asking for weights changes nothing" not in failed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no/such/file.py:Class"], "expected a file at no/such/file.py"),
        (["cobra"], "did you mean 'coba'?"),
        ([], "expected method, found none"),
        (["coba", "famo"], "expected no further word, found 'famo'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["check-weighter", *words]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


class CannotBeMade(Right):
    name = "cannot_be_made"

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), beta: float = 0.9) -> None:
        raise RuntimeError("no memory\nof two lines")


class Leaves(Right):
    """Ends the process, as a script that parses its arguments may."""

    name = "leaves"

    def weights(self, now: Observation) -> Tensor:
        raise SystemExit("usage")


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (CannotBeMade, "can be made", "RuntimeError: no memory of two lines"),
        (Leaves, "asking changes nothing", "SystemExit: usage"),
    ],
)
@pytest.mark.slow
def test_whatever_a_method_does_is_a_result(kind: type[Right], name: str, words: str) -> None:
    told = [result for result in check_weighter(kind).results if result.name == name]
    assert told
    assert all(words in str(result.message) and "\n" not in str(result.message) for result in told)


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ("Claim.NONNEGATIV", "NONNEGATIV"),
        (
            'frozenset({"nonnegative"})',
            "Forgetful: expected claims such as Claim.NONNEGATIVE, found frozenset({'nonnegative'})",
        ),
    ],
)
def test_an_unknown_claim_is_one_line(claims: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "claims_the_unknown.py"
    file.write_text(FORGETFUL.replace("Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT", claims), encoding="utf-8")
    assert command_line.main(["check-weighter", f"{file}:Forgetful"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


# ---- the checks themselves -------------------------------------------------------------------------------------------

CHECKS = {**IN_EVERY_SETTING, **ONCE}


def test_every_check_has_a_broken_method() -> None:
    assert {check for kind in BROKEN for check in kind.breaks} == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_a_right_method_passes(check: str) -> None:
    CHECKS[check](Subject(Right))


@pytest.mark.parametrize(
    ("kind", "check"),
    [pytest.param(kind, check, id=f"{kind.name}-{check}") for kind in BROKEN for check in kind.breaks],
)
def test_a_broken_method_is_caught_by_its_own_check(kind: type[Broken], check: str) -> None:
    told = ask(check, CHECKS[check], Subject(kind), kind.name)
    assert told.message is not None and "\n" not in told.message
