"""Methods on the Gramian: numbers by hand, optima on every trace, and Gramians in which a rule has no answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from places import TESTS
from replays import REPLAYS, Trace, files, found, gramians, group_of, numbers
from torch import Tensor

import weighting
from weighting import Needs, Observation
from weighting._gramian import LastAnswer, equal_shares, inside, least_quadratic, semidefinite
from weighting._orders import draw_orders
from weighting.db_mtl import GradientBuffer

ON_GRAMIAN = [name for name, kind in weighting.METHODS.items() if Needs.GRAMIAN in kind.needs]
every_method = pytest.mark.parametrize("name", ON_GRAMIAN)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def answer(name: str, gramian: Tensor, **more: object) -> Tensor:
    """For one Gramian, or a batch of them."""
    batch_shape, num_tasks = gramian.shape[:-2], gramian.shape[-1]
    seen = Observation(losses=torch.ones(gramian.shape[:-1], dtype=torch.float64), gramian=gramian)
    return weighting.create(name, num_tasks, batch_shape=batch_shape, **more).weights(seen)


def gramian_of(*rows: list[float]) -> Tensor:
    jacobian = torch.tensor(rows, dtype=torch.float64)
    return jacobian @ jacobian.mT


# ---- by hand ---------------------------------------------------------------------------------------------------------

BY_HAND: dict[str, tuple[Tensor, list[float]]] = {
    # Orthogonal, of lengths 1 and 2: weights in proportion to 1 / n^2, 1 / n, and so on.
    "mgda": (gramian_of([1, 0], [0, 2]), [0.8, 0.2]),
    # Of two vectors with the product 4 the first, of squared length 2, is the shortest between them: 0.999.
    "mgda_official": (gramian_of([1, 1], [2, 2]), [0.999, 0.001]),
    "imtl_g": (gramian_of([1, 0], [0, 2]), [2 / 3, 1 / 3]),
    "nash_mtl": (gramian_of([1, 0], [0, 2]), [1.0, 0.5]),
    # The first problem ends at the solution: every constraint is tight.
    "nash_mtl_official": (gramian_of([1, 0], [0, 2]), [1.0, 0.5]),
    "fairgrad": (gramian_of([1, 0], [0, 2]), [1.0, 0.5]),
    "aligned_mtl": (gramian_of([1, 0], [0, 2]), [1.0, 0.5]),
    # g_1 = (1, 0), g_2 = (-1, 1): q = -1. 1 + 1/2 of the other: c_1 = e_1 + e_2 / 2, c_2 = e_2 + e_1.
    "pcgrad": (gramian_of([1, 0], [-1, 1]), [2.0, 1.5]),
    "gradvac": (gramian_of([1, 0], [-1, 1]), [2.0, 1.5]),
    "upgrad": (gramian_of([1, 0], [-1, 1]), [1.0, 0.75]),
    # H = ((1, -1), (-1, 2)) / 3 + 1e-4: v_1 = (1, b) / 2 with b = (1/3) / (2/3 + 1e-4), v_2 = (a, 1) / 2.
    "upgrad_torchjd": (gramian_of([1, 0], [-1, 1]), [(1 + 1 / 1.0003) / 2, (1 + 1 / 2.0003) / 2]),
    # Losses of 1: the longer gradient has the multiplier 1, the shorter one 2.
    "db_mtl": (gramian_of([1, 0], [0, 2]), [2.0, 1.0]),
    # Equal lengths, orthogonal: s = (1/2, 1/2), and the update stays parallel to the mean gradient.
    "cagrad": (gramian_of([1, 0], [0, 1]), [0.7 / 1.16, 0.7 / 1.16]),
}


@every_method
def test_numbers_by_hand(name: str) -> None:
    gramian, expected = BY_HAND[name]
    torch.testing.assert_close(answer(name, gramian), vector(*expected), rtol=1e-7, atol=1e-9)


def test_fairgrad_between_its_limits() -> None:
    """One task of squared norm 8: 8 x = x^(-1/2), x = 8^(-2/3) = 1/4."""
    torch.testing.assert_close(answer("fairgrad", vector(8.0).reshape(1, 1), alpha=2.0), vector(0.25))


def test_orders_leave_the_task_itself_out_and_change_with_seed_and_step() -> None:
    orders = draw_orders(3, 5, 6)
    assert all(sorted([task, *row]) == list(range(6)) for task, row in enumerate(orders.tolist()))
    assert torch.equal(orders, draw_orders(3, 5, 6))
    assert not torch.equal(orders, draw_orders(3, 6, 6))
    assert not torch.equal(orders, draw_orders(4, 5, 6))


# ---- optima on every trace -------------------------------------------------------------------------------------------

Objective = Callable[[Tensor, Tensor, Trace], Tensor]


def shortest(gramian: Tensor, weights: Tensor, trace: Trace) -> Tensor:
    return torch.as_tensor(weights @ gramian @ weights)


def bargain(gramian: Tensor, weights: Tensor, trace: Trace) -> Tensor:
    return torch.as_tensor(weights @ gramian @ weights / 2 - weights.log().sum())


def unfair(gramian: Tensor, weights: Tensor, trace: Trace) -> Tensor:
    power = 1 / trace["hyperparameters"]["alpha"]
    return torch.as_tensor(((gramian @ weights) * weights**power - 1).abs().max())


def worst_gain(gramian: Tensor, weights: Tensor, trace: Trace) -> Tensor:
    """F(s) of the dual, from the weights (1 / K + z) / (1 + c^2), s = z / sum z."""
    c, mean = trace["hyperparameters"]["c"], torch.full_like(weights, 1 / len(weights))
    z = weights * (1 + c**2) - mean
    s = z / z.sum()
    return torch.as_tensor(s @ gramian @ mean + c * (mean @ gramian @ mean).sqrt() * (s @ gramian @ s).sqrt())


OBJECTIVES: dict[str, tuple[Objective, float]] = {
    "mgda": (shortest, 1e-10),
    "nash_mtl": (bargain, 1e-10),
    "fairgrad": (unfair, 1e-10),
    "cagrad": (worst_gain, 1e-10),
}
UNDEFINED = {
    "mgda": (),
    "nash_mtl": ("zero_row", "opposite"),
    "fairgrad": ("zero_row", "opposite", "opposite_half"),
    "cagrad": ("zero_row", "opposite", "opposite_half"),
}
"""Steps in which there is no optimum, or the update does not tell the weights."""


def traces_of(*groups: str) -> list[Path]:
    return [path for path in files(TESTS / "traces") if group_of(path) in groups]


@pytest.mark.parametrize("path", traces_of(*OBJECTIVES), ids=lambda path: path.stem)
def test_no_official_result_is_better_in_the_methods_own_objective(path: Path) -> None:
    trace, group = json.loads(path.read_text(encoding="utf-8")), group_of(path)
    objective, slack = OBJECTIVES[group]
    ours, theirs = REPLAYS[group].weights(trace), numbers(trace["weights"])
    compared = 0
    for gramian, own, other, kind in zip(gramians(trace), ours, theirs, trace["inputs"]["step_case"], strict=True):
        if kind in UNDEFINED[group] or bool(other.isnan().any()):
            continue
        here, there = objective(gramian, own, trace), objective(gramian, other, trace)
        assert here <= there + slack * (1 + there.abs()), kind
        compared += 1
    assert compared >= 8


@pytest.mark.parametrize("path", traces_of("mgda"), ids=lambda path: path.stem)
def test_mgda_has_no_duality_gap(path: Path) -> None:
    trace = json.loads(path.read_text(encoding="utf-8"))
    for gramian, w in zip(gramians(trace), REPLAYS["mgda"].weights(trace), strict=True):
        assert w @ gramian @ w - (gramian @ w).min() <= 1e-10


@pytest.mark.parametrize("path", traces_of("upgrad"), ids=lambda path: path.stem)
def test_upgrad_gives_the_unregularised_update(path: Path) -> None:
    """The update, also where dependent gradients leave the weights open."""
    trace = json.loads(path.read_text(encoding="utf-8"))
    expected = numbers(found(trace, "weights_without_regularisation"))
    for gramian, own, other in zip(gramians(trace), REPLAYS["upgrad"].weights(trace), expected, strict=True):
        difference = (own - other) @ gramian @ (own - other)
        assert difference.clamp(min=0.0).sqrt() <= 1e-10 * gramian.diagonal().sum().sqrt()
        assert (gramian @ own).min() >= -1e-10


@pytest.mark.parametrize("scale", ["median", "rmse"])
@pytest.mark.parametrize("path", traces_of("aligned_mtl"), ids=lambda path: path.stem)
def test_aligned_mtl_with_other_lengths(path: Path, scale: str) -> None:
    trace = json.loads(path.read_text(encoding="utf-8"))
    expected = numbers(found(trace, f"weights_scale_{scale}"))
    found_ = torch.stack([answer("aligned_mtl", gramian, scale=scale) for gramian in gramians(trace)])
    difference = (found_ - expected).abs()[~expected.isnan()]
    assert difference.max() <= 1e-9 * expected.nan_to_num(nan=0.0).abs().max()


@pytest.mark.parametrize("path", traces_of("db_mtl"), ids=lambda path: path.stem)
def test_db_mtl_without_a_buffer_is_a_weight_for_each_loss(path: Path) -> None:
    """In the file without one its multipliers are those of the authors' code; in the others they are not."""
    trace = json.loads(path.read_text(encoding="utf-8"))
    losses, logs = numbers(trace["inputs"]["losses"]), numbers(found(trace, "log_transform_coefficients"))
    weighter = weighting.create("db_mtl", trace["num_tasks"])
    pairs = zip(losses, gramians(trace), strict=True)
    ours = torch.stack([weighter.weights(Observation(losses=each, gramian=gramian)) for each, gramian in pairs])
    same = torch.allclose(ours, numbers(trace["weights"]) * logs, rtol=1e-10)
    assert same == (trace["hyperparameters"]["beta"] == 0)


def test_an_absent_task_keeps_its_row_in_the_buffer_of_db_mtl() -> None:
    buffer, losses = GradientBuffer(2, beta=0.5, sigma=0.0), vector(1.0, 1.0)
    buffer.combine(losses, torch.eye(2, dtype=torch.float64))
    update = buffer.combine(losses, 3 * torch.eye(2, dtype=torch.float64), present=[True, False])
    assert buffer.rows is not None
    torch.testing.assert_close(buffer.rows, torch.diag(vector(1.75, 0.5)), rtol=1e-7, atol=0)
    torch.testing.assert_close(update, vector(1.75, 0.0), rtol=1e-7, atol=0)
    with pytest.raises(ValueError, match=r"db_mtl: expected losses \(2,\) and a row for each, found \(2,\) and \(3, 4\)"):
        buffer.combine(losses, torch.ones(3, 4))


# ---- solvers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "rank"), [(3, 3), (5, 2), (10, 6), (50, 60), (50, 20)])
def test_the_two_solvers_agree_and_meet_the_optimality_conditions(number: int, rank: int) -> None:
    draw = torch.Generator().manual_seed(number + rank)
    rows = torch.randn(4, number, rank, generator=draw, dtype=torch.float64)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    matrix, linear = rows @ rows.mT, torch.randn(4, 1, rank, generator=draw, dtype=torch.float64)
    slope0, allowed = (rows * linear).sum(-1), torch.ones(4, number, dtype=torch.bool)
    values = []
    for found_ in (least_quadratic(matrix, slope0, allowed), inside(matrix, slope0, allowed)):
        slope = (matrix @ found_.unsqueeze(-1)).squeeze(-1) + slope0
        assert found_.min() >= 0
        assert slope.min() >= -1e-7
        assert (found_ * slope).abs().max() <= 1e-7
        values.append((found_ * (slope + slope0)).sum(-1) / 2)
    torch.testing.assert_close(*values, rtol=1e-7, atol=1e-7)


# ---- where a rule has no answer --------------------------------------------------------------------------------------

DEGENERATE = {
    "zero row": gramian_of([1, 2, 0], [0, 0, 0], [-1, 1, 1]),
    "all zero": torch.zeros(3, 3, dtype=torch.float64),
    "equal rows": gramian_of([1, 2, 0], [1, 2, 0], [-1, 1, 1]),
    "opposite": gramian_of([1, 2, 0], [-1, -2, 0], [-1, 1, 1]),
    "scales": gramian_of([1e-3, 0, 1e-3], [1, 2, 0], [-1e3, 1e3, 1e3]),
    "rank one": gramian_of([1], [2], [-3]),
    "one task": gramian_of([3, 4]),
    "fifty tasks, rank ten": gramian_of(*torch.randn(50, 10, generator=torch.Generator().manual_seed(0)).tolist()),
}


@pytest.mark.parametrize("case", DEGENERATE)
@every_method
def test_degenerate_gramians_have_finite_answers(name: str, case: str) -> None:
    gramian = DEGENERATE[case]
    weights = answer(name, gramian)
    assert weights.isfinite().all()
    claims = weighting.METHODS[name].claims
    if weighting.Claim.OPPOSES_NO_TASK in claims and case != "all zero":
        norms = gramian.diagonal().sqrt()
        products = (gramian @ weights) / torch.where(norms > 0, norms, 1.0)
        assert products.min() >= -1e-5 * (weights.abs() * norms).sum()
    if weighting.Claim.SUMS_TO_ONE in claims:
        torch.testing.assert_close(weights.sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["parallel", "opposite"])
@pytest.mark.parametrize("name", [name for name in ON_GRAMIAN if not name.endswith(("_official", "_torchjd"))])
def test_a_cosine_that_rounding_took_beyond_1_is_as_one_of_1(name: str, sign: float) -> None:
    # Inner products that were formed in float32 are off by 1e-7 of the squares.
    exact = gramian_of([1, 0], [2 * sign, 0])
    rounded = exact.clone()
    rounded[0, 1] = rounded[1, 0] = exact[0, 1] * (1 + 3e-7)
    found_, expected = answer(name, rounded), answer(name, exact)
    update, wanted = (torch.tensor([1.0, 2 * sign], dtype=torch.float64) @ weights for weights in (found_, expected))
    torch.testing.assert_close(update, wanted, rtol=1e-3, atol=1e-3)
    assert found_.abs().max() <= 2 * expected.abs().max()


def test_only_an_indefinite_matrix_is_lifted() -> None:
    sound = torch.stack([torch.eye(3), torch.full((3, 3), 0.5) + torch.eye(3) / 2]).double()
    assert torch.equal(semidefinite(sound), sound)
    lifted = semidefinite(vector(1.0, 1.25, 1.25, 1.0).reshape(2, 2))
    torch.testing.assert_close(lifted, torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in ON_GRAMIAN if name not in ("pcgrad", "gradvac", "mgda_official")])
def test_equal_tasks_have_equal_weights(name: str) -> None:
    weights = answer(name, DEGENERATE["equal rows"])
    # How the weight of both is divided moves the optimum by nothing, so rounding decides its last digits.
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in ON_GRAMIAN if name not in ("pcgrad", "gradvac")])
def test_an_absent_task_is_cut_out(name: str) -> None:
    """The others get what they get without it; the orders of the two left out here are drawn for K tasks."""
    jacobian = torch.randn(4, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gramian, others = jacobian @ jacobian.mT, [0, 1, 3]
    seen = Observation(losses=torch.ones(4, dtype=torch.float64), gramian=gramian, counts=[1, 1, 0, 1])
    weights = weighting.create(name, 4).weights(seen)
    assert weights[2] == 0
    torch.testing.assert_close(weights[others], answer(name, gramian[others][:, others]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "gramian", "guard"),
    [
        *((name, DEGENERATE["zero row"], "zero_gradient") for name in ON_GRAMIAN),
        ("nash_mtl", DEGENERATE["opposite"], "no_bargain"),
        ("fairgrad", DEGENERATE["opposite"], "no_bargain"),
        ("nash_mtl_official", DEGENERATE["opposite"], "no_least_point"),
        # (Gw)_1 = -0.1 at w = 1: the objective falls for ever along (2, 1, 0).
        ("nash_mtl_official", gramian_of([1, 0, 0], [-1.1, 1, 0], [0, 0, 1]), "no_least_point"),
        ("mgda_official", 1e9 * torch.eye(3, dtype=torch.float64), "long_gradients"),
        ("upgrad_torchjd", 1e-6 * torch.eye(3, dtype=torch.float64), "small_gradients"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_guards_are_counted(name: str, gramian: Tensor, guard: str) -> None:
    weighter = weighting.create(name, 3)
    seen = Observation(losses=torch.ones(3, dtype=torch.float64), gramian=gramian)
    weighter.weights(seen)
    weighter.update(seen)
    assert weighter.guards_taken() == {guard: 1}


@pytest.mark.parametrize("name", ["gradvac", "nash_mtl", "nash_mtl_official", "mgda_official", "fairgrad"])
def test_an_answer_is_remembered_for_the_same_numbers_alone(name: str) -> None:
    first, other = gramian_of([1.0, 0.0], [-0.5, 2.0]), gramian_of([1.0, 0.3], [0.5, 1.0])
    asked = [first, first.clone(), other, first]
    one = weighting.create(name, 2)
    for gramian in asked:
        anew = weighting.create(name, 2)
        anew.load_state_dict(one.state_dict())
        now = Observation(losses=[1.0, 1.0], gramian=gramian)
        assert torch.equal(one.weights(now), anew.weights(now))
        one.update(now)
        anew.update(now)
        assert all(torch.equal(own, anew.state_dict()[key]) for key, own in one.state_dict().items())


def test_what_is_remembered_is_not_changed_by_the_caller() -> None:
    asked: list[float] = []

    def double(of: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(float(of))
        return 2 * of, of > 0

    last, number = LastAnswer(), torch.tensor(1.0)
    assert [float(last(double, number)[0]), float(last(double, number)[0])] == [2.0, 2.0]
    number += 1.0
    assert float(last(double, number)[0]) == 4.0
    assert asked == [1.0, 2.0]


def test_a_solution_is_as_near_as_numbers_allow() -> None:
    # Nearly equal gradients, whose first guess is nearly right, and opposed ones, whose first guess is far off.
    draw = torch.Generator().manual_seed(0)
    for common in (10.0, 1.0, 0.0):
        rows = torch.randn(20, 4, 5, generator=draw, dtype=torch.float64) + common
        cosines = torch.nn.functional.normalize(rows, dim=-1)
        matrix = cosines @ cosines.mT
        z, none = equal_shares(matrix, torch.ones(20, 4, dtype=torch.float64), 1.0)
        torch.testing.assert_close((matrix @ z.unsqueeze(-1)).squeeze(-1) * z, torch.ones_like(z), rtol=1e-10, atol=0)
        assert not none.any()
