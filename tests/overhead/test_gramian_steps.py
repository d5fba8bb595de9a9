"""The table of steps on the Gramian holds every method, and those of other libraries where these are installed."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import benchmarks.overhead.gramian_steps as steps
from benchmarks.overhead import anchors
from benchmarks.overhead.many_heads import ManyHeads
from benchmarks.overhead.weighter_steps import gramian_weight_costs
from benchmarks.testing import check_problem
from weighting import METHODS, Needs

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_problem_of_many_heads_holds_the_contract() -> None:
    report = check_problem(ManyHeads)
    assert report.ok, str(report)


def test_every_method_on_the_gramian_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "ROUNDS", {"multidigits": 1})
    monkeypatch.setattr(steps, "WARMUP_ROUNDS", 0)
    monkeypatch.setattr(anchors, "_is_installed", lambda name: False)
    found = steps.gramian_costs(CPU)
    asking = [name for name, kind in METHODS.items() if Needs.GRAMIAN in kind.needs and kind.variant_of is None]
    assert found["method"].tolist() == ["uniform", *asking]
    assert set(found["gradients"]) == {"", "a pass each"}
    assert (found["uniform = 1"] > 0).all()
    assert found["allowed"].notna().tolist() == [False, *[True] * len(asking)]


def test_weights_alone_are_measured_for_few_and_many_tasks() -> None:
    found = gramian_weight_costs(["mgda"], CPU)
    assert list(found.columns) == ["weighter", "ms for 5 tasks", "ms for 50 tasks"]


def a_library(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Something that looks like TorchJD, whose update is the plain sum."""
    asked: list[str] = []

    class Aggregator:
        def __init__(self, **options: Any) -> None:
            asked.append(type(self).__name__)

    def backward(losses: Tensor, inputs: Sequence[Tensor]) -> None:
        losses.sum().backward(inputs=list(inputs))  # type: ignore[no-untyped-call]
        for parameter in inputs:
            parameter.jac = parameter.grad  # type: ignore[attr-defined]

    def jac_to_grad(parameters: Sequence[Tensor], aggregator: Aggregator) -> None:
        for parameter in parameters:
            assert parameter.grad is None
            parameter.grad = parameter.jac  # type: ignore[attr-defined]

    names = [title for title in anchors.TORCHJD.values() if title != "NashMTL"]
    aggregation = types.SimpleNamespace(**{title: type(title, (Aggregator,), {}) for title in names})
    autojac = types.SimpleNamespace(backward=backward, jac_to_grad=jac_to_grad)
    monkeypatch.setitem(sys.modules, "torchjd", types.ModuleType("torchjd"))
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", aggregation)
    monkeypatch.setitem(sys.modules, "torchjd.autojac", autojac)
    monkeypatch.setattr(anchors, "_is_installed", lambda name: name == "torchjd")
    return asked


def test_a_step_of_another_library_trains_shared_layer_and_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = a_library(monkeypatch)
    problem = ManyHeads(tasks=ManyHeads.all_tasks[:3])
    found = anchors.updates(3)
    # What cannot be made, as for want of a solver, is left out.
    assert list(found) == [f"{name} (TorchJD)" for name in ("mgda", "pcgrad", "cagrad", "upgrad")]
    assert asked == ["MGDA", "PCGrad", "CAGrad", "UPGrad"]
    model = problem.model(0)
    monkeypatch.setattr(ManyHeads, "model", lambda self, seed: model)
    data = problem.data(0, problem.training)
    step = anchors.step_of(found["mgda (TorchJD)"], problem, data, steps._shared(problem, data, CPU), CPU)
    before = {name: value.clone() for name, value in model.named_parameters()}
    step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    # The heads of tasks that are not trained get no gradient.
    assert moved == {name for name in before if not name.startswith("heads.") or int(name.split(".")[1]) < 3}
