"""famo_toy: the landscape against its formula, the minima and the front against search, the gap by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from benchmarks.problems.famo_toy import FLOOR, MINIMA, STARTS, FamoToy, Points, front_gap, landscape, pareto_front

PLACES = [*STARTS, (3.0, 2.0), (-2.5, 0.7), (1.0, -6.0), (-9.3, -0.01), (0.0, 20.0), (5.0, 0.0)]


def written_out(a: float, b: float) -> tuple[float, float]:
    """Both losses, term by term as the papers print them."""
    c1, c2 = max(math.tanh(b / 2), 0.0), max(math.tanh(-b / 2), 0.0)
    log1 = math.log(max(abs(0.5 * (-a - 7) - math.tanh(-b)), 5e-6)) + 6
    log2 = math.log(max(abs(0.5 * (-a + 3) + math.tanh(-b) + 2), 5e-6)) + 6
    bowl1 = ((-a + 7) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20
    bowl2 = ((-a - 7) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20
    return 0.1 * (c1 * log1 + c2 * bowl1), c1 * log2 + c2 * bowl2


@pytest.fixture(scope="module")
def grid() -> Tensor:
    """Places (a, b) every 0.1 in [-12, 12] x [-16, 12]."""
    a, b = torch.linspace(-12, 12, 241, dtype=torch.float64), torch.linspace(-16, 12, 281, dtype=torch.float64)
    return torch.cartesian_prod(a, b)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_landscape_is_the_printed_formula(place: tuple[float, float]) -> None:
    point = torch.tensor(place, dtype=torch.float64)
    torch.testing.assert_close(landscape(point).tolist(), list(written_out(*place)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(landscape(point.float()).tolist(), list(written_out(*place)), rtol=1e-4, atol=1e-5)


def test_landscape_by_hand() -> None:
    """At (7, -8) c1 = 0 and c2 = tanh(4) = 0.9993293: f1 = 0.1 c2 (0 - 20) and f2 = c2 (196 / 10 - 20)."""
    f1, f2 = landscape(torch.tensor([7.0, -8.0], dtype=torch.float64)).tolist()
    assert f1 == pytest.approx(-1.9986586, abs=1e-7)
    assert f2 == pytest.approx(-0.3997317, abs=1e-7)


def test_landscape_takes_any_leading_shape() -> None:
    points = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = landscape(points)
    assert losses.shape == (3, 4, 2)
    assert torch.equal(losses[1, 2], landscape(points[1, 2]))


def test_gradient_is_finite_in_the_valley_and_on_the_seam() -> None:
    """f1's logarithm meets its floor where a = -7 + 2 tanh(b); at b = 0 both blends are zero."""
    b = torch.tensor([0.5, 2.0, 20.0, 0.0], dtype=torch.float64)
    points = torch.stack((-7 + 2 * torch.tanh(b), b), -1).requires_grad_()
    losses = landscape(points)
    blend = torch.tanh(b / 2).clamp(min=0)
    torch.testing.assert_close(losses[:3, 0].detach(), 0.1 * blend[:3] * (math.log(FLOOR) + 6))
    for column in range(2):
        (slope,) = torch.autograd.grad(losses[:, column].sum(), points, retain_graph=True)
        assert torch.isfinite(slope).all()
        if column == 0:
            assert slope[:3, 0].abs().max() == 0


def test_start_on_the_seam_can_leave() -> None:
    """At (0, 0) both blends have slope: df2/db = 0.5 (log 3.5 + 6) - 0.5 (55.4 / 10 - 20) = 10.8563815."""
    point = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    slope1, slope2 = (torch.autograd.grad(landscape(point)[k], point)[0][1].item() for k in range(2))
    assert slope2 == pytest.approx(10.8563815, abs=1e-7)
    assert slope1 == pytest.approx(0.1 * 10.8563815, abs=1e-8)


@pytest.mark.parametrize("column", [0, 1])
def test_minima_are_the_least_values(column: int, grid: Tensor) -> None:
    losses = landscape(grid)[:, column]
    least = int(losses.argmin())
    assert MINIMA[column] <= losses[least].item() < MINIMA[column] + 1e-3

    def loss(place: np.ndarray) -> float:
        return landscape(torch.from_numpy(place))[column].item()

    found = minimize(loss, grid[least].numpy(), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
    assert found.fun == pytest.approx(MINIMA[column], abs=1e-11)


def test_no_front_point_dominates_another() -> None:
    """From f1's minimum to f2's the one loss only rises and the other only falls."""
    points, losses = pareto_front()
    assert points.shape == losses.shape == (2001, 2)
    assert (losses[:, 0].diff() > 0).all()
    assert (losses[:, 1].diff() < 0).all()
    assert losses[0, 0].item() == pytest.approx(MINIMA[0], abs=1e-12)
    assert losses[-1, 1].item() == pytest.approx(MINIMA[1], abs=1e-12)


def test_nothing_on_a_grid_is_ahead_of_the_front(grid: Tensor) -> None:
    """Every grid point has, up to the front's own spacing, a front point that is no worse in both losses."""
    front = pareto_front(501)[1]
    ranges = front.amax(0) - front.amin(0)
    lead = torch.cat([((front - part.unsqueeze(1)) / ranges).amax(-1).amin(-1) for part in torch.chunk(landscape(grid), 8)])
    assert lead.max().item() < 0.002


def test_front_gap() -> None:
    """0 on the front and between its samples; (9, 9) is far behind; 3 below the middle of the front it is between."""
    points, losses = pareto_front()
    assert front_gap(points[::100]).max().item() < 1e-12
    assert front_gap(torch.tensor([9.0, 9.0])).item() > 0.9
    away = points[1000] + torch.tensor([0.0, -3.0], dtype=torch.float64)
    ranges = losses.amax(0) - losses.amin(0)
    by_hand = ((landscape(away) - losses) / ranges).amin(-1).amax().item()
    assert front_gap(away).item() == pytest.approx(by_hand)
    assert 0.005 < by_hand < 0.1
    between = points[:-1] + points.diff(dim=0) / 2
    assert front_gap(between).max().item() < 1e-6


def test_evaluation_of_known_points() -> None:
    """Four points on the front, one at (9, 9): four starts on the front, and the losses' means by hand."""
    problem = FamoToy()
    model = problem.model(0)
    assert isinstance(model, Points)
    front = pareto_front()[0]
    with torch.no_grad():
        model.points.copy_(torch.cat((front[[0, 500, 1000, 2000]], torch.tensor([[9.0, 9.0]]))))
    with torch.no_grad():
        found = problem.evaluate(model, problem.data(0, problem.training).batches("test"))
    assert list(found.metrics) == [metric.key for metric in problem.metrics]
    assert found.metrics["starts_on_front"] == 4
    expected = landscape(model.points.detach())
    torch.testing.assert_close(found.losses, expected)
    assert found.metrics["f2/loss"] == pytest.approx(expected[:, 1].mean().item(), rel=1e-6)
    assert found.metrics["front_gap[start 5]"] > 0.9


def test_one_task_is_a_column_of_both() -> None:
    both, second = FamoToy(), FamoToy(tasks=("f2",))
    losses = second.losses(second.model(3), {})
    assert losses.shape == (5, 1)
    assert torch.equal(losses[:, 0], both.losses(both.model(7), {})[:, 1])
    assert [metric.key for metric in second.metrics][:2] == ["f2/loss", "starts_on_front"]
    swapped = FamoToy(tasks=("f2", "f1"))
    assert torch.equal(swapped.losses(swapped.model(0), {}), both.losses(both.model(0), {}).flip(-1))


def test_probe_names_the_coordinates() -> None:
    problem = FamoToy()
    probed = problem.probe(problem.model(0))
    assert torch.equal(torch.stack((probed["a"], probed["b"]), -1), torch.tensor(STARTS))


def test_nonsense_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^famo_toy: expected tolerance to be a finite number above 0, found 0$"):
        FamoToy(tolerance=0)
    with pytest.raises(ValueError, match=r"^famo_toy: expected tasks among f1, f2, found 'f3'$"):
        FamoToy(tasks=("f3",))
