"""MetaWeighting: hypergradients are those of the validation losses, its steps by hand, its constraints, its guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from in_double import RowsInDouble, SparseInDouble, TinyInDouble
from loops import loop_of
from tiny_problem import Spy
from torch import Tensor

import weighting
from benchmarks.contract import Problem, Training
from benchmarks.harness.loop import Loop
from weighting import Needs, Observation
from weighting._shares import projected
from weighting.metaweighting import MetaWeighting
from weighting.testing.synthetic import run, script

CONSTRAINTS = ("simplex", "softmax", "none")
each_constraint = pytest.mark.parametrize("constraint", CONSTRAINTS)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---- the hypergradient -----------------------------------------------------------------------------------------------


class Given(Spy):
    """Weights that somebody else chose, and all that shows what they do."""

    name = "given"
    needs = Needs.CROSS_GRAMIAN | Needs.VAL_LOSSES
    acts_on = "shared"

    def __init__(self, num_tasks: int, given: Tensor) -> None:
        super().__init__(num_tasks)
        self.given = given

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.given, now)


def after_one_step(problem: Problem, given: Tensor, **changes: Any) -> tuple[Observation, Loop]:
    """What is seen after the first step under some weights."""
    fixed = {"steps": 2, "optimizer": "sgd", "lr": 0.05, "batch_size": min(8, problem.training.batch_size)}
    spy = Given(problem.num_tasks, given)
    loop = loop_of(spy, Training.model_validate({**problem.training.model_dump(), **fixed, **changes}), problem)
    loop.begin()
    loop.train_step()
    return spy.updates[0], loop


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "tiny": TinyInDouble,
    "sparse": SparseInDouble,
    "rows": RowsInDouble,
}


SMALL: list[dict[str, Any]] = [{}, {"accumulate": 2}, {"validation_batches": 2}]
RUNS = [("rows", {}), *((name, changes) for name in ("tiny", "sparse") for changes in SMALL)]


@pytest.mark.parametrize(("name", "changes"), RUNS, ids=str)
def test_hypergradients_are_the_derivatives_of_the_validation_losses(name: str, changes: dict[str, Any]) -> None:
    """dQ_j / dw_i = -eta C_ji, by central differences of the weights of one step of SGD in float64."""
    problem, width = PROBLEMS[name](), 1e-4
    weights = torch.linspace(0.2, 1.0, problem.num_tasks, dtype=torch.float64)
    seen, loop = after_one_step(problem, weights, **changes)
    assert seen.cross_gramian is not None
    trained = torch.ones_like(weights, dtype=torch.bool) if seen.present is None else seen.present
    queried = trained | True if seen.val_present is None else seen.val_present
    columns = []
    for task in range(problem.num_tasks):
        moved = weights.new_zeros(len(weights)).index_fill(0, torch.tensor([task]), width)
        here, there = (after_one_step(PROBLEMS[name](), weights + sign * moved, **changes)[0] for sign in (1, -1))
        assert here.val_losses is not None and there.val_losses is not None
        columns.append((here.val_losses - there.val_losses) / (2 * width))
    expected = torch.where(queried.unsqueeze(-1) & trained, torch.stack(columns, dim=-1), 0.0)
    found = -loop.training.lr * seen.cross_gramian
    assert expected.abs().max() > 1e-4
    # What is left is the rounding of the losses, over the width.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    # The transposed, and another model's learning rate, would be found.
    assert not torch.allclose(found.mT, expected, rtol=1e-2, atol=1e-9)


@each_constraint
def test_the_weights_lower_the_validation_losses_that_they_are_answerable_for(constraint: str) -> None:
    """The same step again, with the weights that were learned from it: no validation loss ends higher."""
    problem = TinyInDouble()
    weighter = weighting.create("metaweighting", 3, lr=1e-3, constraint=constraint)
    assert isinstance(weighter, MetaWeighting)
    first = weighter.weights(Observation(losses=torch.ones(3, dtype=torch.float64)))
    seen, _ = after_one_step(problem, first)
    weighter.update(seen)
    second = weighter.weights(Observation(losses=torch.ones(3, dtype=torch.float64)))
    again, _ = after_one_step(TinyInDouble(), second)
    assert seen.val_losses is not None and again.val_losses is not None
    assert not torch.equal(first, second)
    if constraint == "none":
        assert bool((again.val_losses < seen.val_losses).all())
    elif constraint == "softmax":
        assert bool((again.val_losses <= seen.val_losses + 1e-12).all())
    else:
        # The projection may take away what the direction gave.
        assert float(weighter.weight_parameters.sum()) == pytest.approx(1)


# ---- by hand ---------------------------------------------------------------------------------------------------------

ORTHOGONAL = [[1.0, 0.0], [0.0, 2.0]]
"""d = -(1, 0) and -(0, 2): shares (0.8, 0.2), common direction -(0.8, 0.4)."""
BY_HAND: dict[str, tuple[list[float], list[float]]] = {
    "none": ([0.5 + 0.08, 0.5 + 0.04], [0.8, 0.2]),
    "simplex": ([0.5 + 0.02, 0.5 - 0.02], [0.8, 0.2]),
}


@pytest.mark.parametrize("constraint", BY_HAND)
def test_a_step_by_hand(constraint: str) -> None:
    weights, shares = BY_HAND[constraint]
    weighter = weighting.create("metaweighting", 2, lr=0.1, constraint=constraint)
    assert weighter.weights(Observation(losses=[1.0, 1.0])).tolist() == [0.5, 0.5]
    weighter.update(Observation(losses=[1.0, 1.0], cross_gramian=ORTHOGONAL))
    torch.testing.assert_close(weighter.weights(Observation(losses=vector(1, 1))), vector(*weights))
    torch.testing.assert_close(weighter.probes()["combination"], vector(*shares))


def test_a_step_of_the_softmax_by_hand() -> None:
    """Logits 0: d_j = -(C_j0 - C_j1) (1, -1) / 4. Rows (2, 0) and (3, -1): of lengths 1/2 and 1, the first is nearer 0."""
    weighter = weighting.create("metaweighting", 2, lr=0.4, constraint="softmax")
    weighter.update(Observation(losses=[1.0, 1.0], cross_gramian=[[2.0, 0.0], [3.0, -1.0]]))
    torch.testing.assert_close(weighter.probes()["combination"], vector(1.0, 0.0))
    expected = vector(0.2, -0.2).softmax(-1)
    torch.testing.assert_close(weighter.weights(Observation(losses=vector(1, 1))), expected)


def test_validation_losses_that_want_the_opposite_leave_the_weights_where_they_are() -> None:
    for constraint in ("softmax", "none"):
        weighter = weighting.create("metaweighting", 2, lr=1e9, constraint=constraint)
        weighter.update(Observation(losses=[1.0, 1.0], cross_gramian=[[0.1, -0.1], [-0.7, 0.7]]))
        torch.testing.assert_close(weighter.weights(Observation(losses=vector(1, 1))), vector(0.5, 0.5), rtol=0, atol=0)
        assert weighter.guards_taken() == {}


@pytest.mark.parametrize(
    ("moved", "total", "chosen", "expected"),
    [
        ([0.6, 0.6, 0.6], 1.0, [1, 1, 1], [1 / 3, 1 / 3, 1 / 3]),
        ([1.5, 0.7, -3.0], 1.0, [1, 1, 1], [0.9, 0.1, 0.0]),
        ([1e30, 0.0, -1e30], 1.0, [1, 1, 1], [1.0, 0.0, 0.0]),
        ([0.9, 5.0, 0.5], 0.6, [1, 0, 1], [0.5, 0.0, 0.1]),
        ([0.9, 5.0, 0.5], 0.0, [1, 1, 1], [0.0, 0.0, 0.0]),
    ],
    ids=["all above", "one out", "far out", "of those that are there", "nothing to share"],
)
def test_projection_by_hand(moved: list[float], total: float, chosen: list[int], expected: list[float]) -> None:
    found = projected(vector(*moved), vector(total), torch.tensor(chosen).bool())
    torch.testing.assert_close(torch.where(torch.tensor(chosen).bool(), found, 0.0), vector(*expected))


def test_projection_is_the_nearest_point() -> None:
    """Against many points of the simplex, drawn at random."""
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(50, 6, generator=draw, dtype=torch.float64)
    found = projected(values, torch.ones(50, 1, dtype=torch.float64), torch.ones(50, 6, dtype=torch.bool))
    others = torch.randn(4000, 6, generator=draw, dtype=torch.float64).mul(3).softmax(-1)
    near = torch.lerp(found.unsqueeze(1), others, 0.05)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(-1), torch.ones(50, dtype=torch.float64))
    own = (found - values).norm(dim=-1, keepdim=True)
    assert bool(((near - values.unsqueeze(1)).norm(dim=-1) >= own - 1e-12).all())


# ---- absence ---------------------------------------------------------------------------------------------------------


@each_constraint
def test_a_task_absent_in_training_keeps_its_weight(constraint: str) -> None:
    weighter, shown = weighting.create("metaweighting", 4, lr=0.05, constraint=constraint), script(4, 12)
    everyone = Observation(losses=torch.ones(4, dtype=torch.float64))
    for step in shown.steps:
        weighter.update(step.replace(counts=[1, 1, 0, 1]))
        assert float(weighter.weights(everyone)[2]) == pytest.approx(0.25, rel=1e-12)
    weights = weighter.weights(everyone)
    assert float(weights.max() - weights.min()) > 1e-3
    if constraint != "none":
        assert float(weights.sum()) == pytest.approx(1, rel=1e-12)


@each_constraint
def test_a_task_absent_in_validation_has_no_row(constraint: str) -> None:
    """As if its row were that of another task: the hull is the same."""
    shown = script(3, 10)
    weighter, twin = (weighting.create("metaweighting", 3, lr=0.05, constraint=constraint) for _ in range(2))
    for step in shown.steps:
        assert step.cross_gramian is not None
        weighter.update(step.replace(val_counts=[1, 0, 1]))
        twin.update(step.replace(cross_gramian=step.cross_gramian[[0, 2, 2]]))
    ones = Observation(losses=torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(weighter.weights(ones), twin.weights(ones), rtol=1e-9, atol=1e-12)
    assert float(weighter.probes()["combination"][1]) == 0


def test_guards_are_counted() -> None:
    """Not for a step without any task of one batch: nobody was asked there."""
    weighter = weighting.create("metaweighting", 2)
    ones = vector(1.0, 1.0)
    weighter.update(Observation(losses=ones, cross_gramian=[[1.0, 2.0], [0.0, 0.0]]))
    assert weighter.guards_taken() == {"zero_hypergradient": 1}
    assert weighter.probes()["combination"].tolist() == [0.0, 1.0]
    weighter.update(Observation(losses=ones, cross_gramian=[[1.0, 2.0], [0.0, 0.0]], val_counts=[1, 0]))
    assert weighter.probes()["combination"].tolist() == [1.0, 0.0]
    for absent in ({"counts": [0, 0]}, {"val_counts": [0, 0]}):
        before = weighter.weights(Observation(losses=ones))
        weighter.update(Observation(losses=ones, cross_gramian=[[1.0, 2.0], [3.0, 4.0]], **absent))
        assert torch.equal(weighter.weights(Observation(losses=ones)), before)
    assert weighter.guards_taken() == {"zero_hypergradient": 1}


# ---- in a run --------------------------------------------------------------------------------------------------------


def test_it_moves_weight_to_the_task_whose_gradient_helps_everybody() -> None:
    """Column 0 lowers both validation losses most; the weights reach the vertex and stay."""
    shown = script(2, 200).changed(
        lambda field, value: torch.tensor([[2.0, 0.1], [1.5, 1.0]]).double() if field == "cross_gramian" else value
    )
    assert run(weighting.create("metaweighting", 2, lr=0.1), shown)[-1].tolist() == [1.0, 0.0]


def test_a_run_moves_its_weights_and_shows_its_probe() -> None:
    problem = TinyInDouble()
    training = Training.model_validate({**problem.training.model_dump(), "probes": True})
    loop = loop_of(weighting.create("metaweighting", 3, lr=0.01), training, problem)
    loop.run()
    frame = loop.trajectory.frame()
    last = frame[frame["weight"].notna()].groupby("step")["weight"].apply(list).iloc[-1]
    assert max(last) - min(last) > 1e-3 and sum(last) == pytest.approx(1)
    shown = frame[frame["step"] > 0].dropna(subset=["method.combination"]).groupby("step")["method.combination"].sum()
    assert len(shown) > 0 and shown.tolist() == pytest.approx([1.0] * len(shown))
