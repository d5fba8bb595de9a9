"""Planted regressions fail ``check``, by the names of method and gate; the committed baseline is the present code's."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import regression_runs
from check_bench import METHODS, CheckBench
from places import REFERENCE
from torch import nn

import weighting
from benchmarks.cli import regression
from benchmarks.problems.multidigits import MultiDigits
from benchmarks.regression import golden_runs, golden_weights
from benchmarks.regression.gate_result import GateResult
from benchmarks.regression.planted import PLANTED, Planted
from weighting import Needs, names

pytestmark = pytest.mark.slow

SMALL = dict(golden_runs.SMALL)


@pytest.fixture
def whole(check_bench: CheckBench) -> CheckBench:
    """A baseline with the committed weights of all methods, and runs as good and as fast as those of its baseline."""
    check_bench.monkeypatch.setattr(regression, "names", names)
    check_bench.monkeypatch.setattr(golden_runs, "SMALL", SMALL)
    shutil.copy(REFERENCE / golden_weights.FILE, check_bench.baseline)
    shutil.rmtree(check_bench.baseline / "mine")
    path = regression_runs.suite(check_bench.folder)
    runs = [regression_runs.run(spec, "mine") for spec in regression_runs.plan(path).runs]
    regression_runs.write(check_bench.baseline / "mine", runs)
    return check_bench


def test_the_same_code_passes_with_the_committed_weights(whole: CheckBench) -> None:
    """By the command, and by every verdict behind its words: no method and no input is left out."""
    verdicts: list[GateResult] = []
    original = golden_weights.judge

    def judge(recorded: golden_weights.Baseline, places: Iterable[str]) -> list[GateResult]:
        verdicts.extend(found := original(recorded, places))
        return found

    whole.monkeypatch.setattr(golden_weights, "judge", judge)
    assert whole.check().code == 0
    assert [verdict for verdict in verdicts if verdict.state != "ok"] == []
    assert {verdict.method.partition("[")[0] for verdict in verdicts} == set(names())
    inputs = {"log all_tasks", "log absent_tasks", *(f"run {name}" for name in SMALL)}
    assert {verdict.place for verdict in verdicts} == inputs


def test_check_names_the_methods_and_the_gate(whole: CheckBench) -> None:
    """All are planted at once, as a check of all methods takes long; each breaks its own methods, and no other is named."""
    with contextlib.ExitStack() as broken:
        for planted in PLANTED:
            broken.enter_context(planted.patch())
        said = whole.check()
    assert said.code == 1
    planted_in = {name for planted in PLANTED for name in (planted.method, *planted.variants)}
    last = said.stdout.rstrip().splitlines()[-1]
    assert last.startswith("FAILED: ")
    assert set(last.removeprefix("FAILED: ").split(", ")) == {f"{name} (weights)" for name in planted_in}
    failed = [line for line in said.stdout.splitlines() if line.startswith("weights  FAILED")]
    for planted in PLANTED:
        assert any(f" {planted.method}" in line for line in failed)
    assert all("weights differ from step " in line for line in failed)


def keep_weights_of(methods: Sequence[str], baseline: Path) -> None:
    path = baseline / golden_weights.FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    for place, of_settings in content["weights"].items():
        kept = {label: weights for label, weights in of_settings.items() if label.partition("[")[0] in methods}
        content["weights"][place] = kept
    path.write_text(json.dumps(content), encoding="utf-8")


def test_gradnorm_is_seen_where_the_problem_names_the_wrong_layer(whole: CheckBench) -> None:
    """On that problem and no other; among those that measure gradients at a layer, and some that do not."""
    some = [*METHODS, *(name for name in names() if Needs.GRAD_NORMS in weighting.METHODS[name].needs)]
    whole.monkeypatch.setattr(regression, "names", lambda: some)
    keep_weights_of(some, whole.baseline)

    def first(_: MultiDigits, model: nn.Module) -> nn.Module:
        return next(layer for layer in model.modules() if list(layer.parameters(recurse=False)))

    whole.monkeypatch.setattr(MultiDigits, "shared_layer", first)
    said = whole.check()
    assert said.code == 1
    failed = [line for line in said.stdout.splitlines() if line.startswith("weights  FAILED")]
    assert len(failed) == 2
    assert all("run multidigits" in line for line in failed)
    assert said.stdout.rstrip().endswith("\nFAILED: gradnorm (weights), gradnorm_libmtl (weights)")


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.what)
def test_what_is_planted_is_far_beyond_the_tolerance(planted: Planted) -> None:
    with planted.patch():
        verdicts = golden_weights.judge(golden_weights.read(REFERENCE), [planted.method, *planted.variants])
    failed = [each for each in verdicts if each.state == "failed" and "no such method" not in each.reason]
    assert {each.method.partition("[")[0] for each in failed} == {planted.method, *planted.variants}
    assert max(each.value for each in failed) > 100 * golden_weights.RUN_TOLERANCE
