"""The two-objective landscape of CAGrad, Nash-MTL and FAMO: five starting points, and not every method reaches the front.

Source    landscape: Liu et al., Conflict-Averse Gradient Descent, NeurIPS 2021, appendix on the toy example; first loss
          scaled by 0.1: Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022; starts, Adam with 1e-3 and
          50,000 steps: Liu et al., FAMO, NeurIPS 2023, and the toy folder of its code at 5b92c20.
Symbols   x = (a, b) the only parameter; f1, f2 the losses; c1, c2 blend the upper (b > 0) into the lower (b < 0) half;
          L = 5e-6 the floor under the logarithm.
Departs   the true minima below stand for the bounds -2.1 and -21 that FAMO's code gives its method; the five starts are
          trained as one batch, which changes nothing, since Adam works element by element.

Finding   equal weights with Adam miss the front from one start, (9, 9): it ends in f2's ditch at (5.0, 3.9) with a front gap
          of 0.96. FAMO with gamma 0 reaches the front from all five.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch, Data, Evaluation, Landscape, Metric, Problem, Split, Training
from weighting._checks import check

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
SCALES = (0.1, 1.0)
"""Of f1 and f2."""
FLOOR = 5e-6
"""L, the least argument of the logarithm."""
REACH, CELLS = 10.5, 90
"""The region of a picture, in all four directions, and its places along an axis."""
MINIMA = (-1.9989425136960859, -19.989425136960858)
"""The least values of f1 and f2 over the plane, at (7, b) and (-7, b); found by ``pareto_front``, proved by a test."""


def landscape(points: Tensor) -> Tensor:
    """Both losses at some points. Pure.

    points   ``(..., 2)`` places (a, b), no unit. Returns ``(..., 2)``: f1 and f2, no unit.

    With t = tanh(b), f1 / 0.1 and f2 read

        c1 (log max(|0.5 (-a - 7) + t|,     L) + 6) + c2 (((-a + 7)^2 + 0.1 (-b - 8)^2) / 10 - 20)
        c1 (log max(|0.5 (-a + 3) - t + 2|, L) + 6) + c2 (((-a - 7)^2 + 0.1 (-b - 8)^2) / 10 - 20)
        c1 = max(tanh(b / 2), 0),   c2 = max(tanh(-b / 2), 0).

    Both maxima are clamps, as in the authors' code, because the kinks decide where runs go. A clamp passes the gradient
    where its argument EQUALS the bound, so at b = 0, where c1 = c2 = 0, both still have their slope and the start (0, 0)
    can leave; relu's zero slope there would hold it for ever. Below L the logarithm's slope is zero rather than huge: its
    valley is a ditch with a flat bottom, without an infinity or a NaN on the way down.
    """
    scales, sides = _constants(points.dtype, points.device)
    a, b = points.chunk(2, -1)
    # f1 and f2 mirror each other: up to its sign the logarithm's argument is a / 2 + side (3.5 - t), the bowl's centre is
    # 7 side. Both at once, and few small operations, since their overhead is the whole cost of a step.
    valleys = torch.addcmul(0.5 * a, 3.5 - torch.tanh(b), sides).abs().clamp(min=FLOOR).log() + 6.0
    bowls = torch.add(0.01 * (b + 8.0).square() - 20.0, (a - 7.0 * sides).square(), alpha=0.1)
    blend = torch.tanh(0.5 * b)
    return scales * torch.addcmul(blend.clamp(min=0.0) * valleys, (-blend).clamp(min=0.0), bowls)


@cache
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(SCALES, dtype=dtype, device=device), torch.tensor((1.0, -1.0), dtype=dtype, device=device)


@cache
def pareto_front(num: int = 2001) -> tuple[Tensor, Tensor]:
    """Points of the Pareto front from f1's minimum (a = 7) to f2's (a = -7) and their losses: two ``(num, 2)``, float64.

    On the front some convex mix of the two gradients vanishes. In a it vanishes only for the shares (a + 7) / 14 of
    f1 / 0.1 and (7 - a) / 14 of f2; their sum is then c2(b) ((49 - a^2) / 10 + (b + 8)^2 / 100 - 20), whose slope in b
    changes its sign once between -9 and -8 and is bisected there.
    """
    a = torch.linspace(7.0, -7.0, num, dtype=torch.float64)
    low, high = torch.full_like(a, -9.0), torch.full_like(a, -8.0)
    for _ in range(60):
        b = (low + high) / 2
        c2 = torch.tanh(-b / 2)
        slope = -0.5 * (1 - c2**2) * ((49 - a**2) / 10 + (b + 8) ** 2 / 100 - 20) + c2 * (b + 8) / 50
        low, high = torch.where(slope < 0, b, low), torch.where(slope < 0, high, b)
    points = torch.stack((a, (low + high) / 2), -1)
    return points, landscape(points)


def front_gap(points: Tensor) -> Tensor:
    """How far points are behind the front: ``(..., 2)`` places to ``(...,)``, 0 on the front, float64, no unit.

    The additive epsilon of multi-objective optimisation: the largest amount by which one front point is better in BOTH
    losses at once, each in units of its range over the front. It is 0 where no front point is better in both; the 2,001
    points that stand for the front make it at most 0.001 too small.
    """
    front = pareto_front()[1]
    ranges = front.amax(0) - front.amin(0)
    behind = (landscape(points.detach().to(front)).unsqueeze(-2) - front) / ranges
    return behind.amin(-1).amax(-1).clamp(min=0.0)


class Points(nn.Module):
    """The parameter x of every start: ``points`` of shape (5, 2). Called, it gives the losses (5, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.tensor(STARTS))

    def forward(self) -> Tensor:
        """Both losses at all points."""
        return landscape(self.points)


class _Nothing(Data):
    """The data of a problem without data: empty batches; all splits are the same function."""

    steps_per_epoch = 1
    num_validation_batches = 1

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((STARTS, SCALES, FLOOR)).encode()).hexdigest()

    def train_batch(self, step: int) -> Batch:
        return {}

    def validation_batch(self, index: int) -> Batch:
        return {}

    def batches(self, split: Split) -> Iterator[Batch]:
        yield {}


class FamoToy(Problem):
    """Two objectives of one point in the plane, from five starts at once.

    tolerance   the front gap up to which a start counts as on the front, in ranges of the front, > 0: 0.01 means that
                no front point is better by more than 1 % of the range in both losses

    Raises ValueError on unknown tasks or a tolerance that is not positive.
    """

    name = "famo_toy"
    all_tasks = ("f1", "f2")
    training = Training(steps=50_000, lr=1e-3, log_every=250, evaluate_every=1000, selection="last")
    splits = "There are no data: train, validation and test are the same function, and every seed gives the same run."
    batch_shape = (len(STARTS),)

    def __init__(self, *, tasks: Sequence[str] | None = None, tolerance: float = 0.01) -> None:
        super().__init__(tasks=tasks)
        check(self.name, "tolerance", tolerance, gt=0)
        self.tolerance = tolerance
        self._columns = [self.all_tasks.index(task) for task in self.tasks]
        self._in_order = self.tasks == self.all_tasks

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The loss of each task, mean over the starts; how many starts end on the front, and each one's front gap."""
        losses = tuple(Metric("loss", task, higher_is_better=False) for task in self.tasks)
        count = Metric("starts_on_front", None, higher_is_better=True, primary=False)
        gaps = (Metric(f"front_gap[start {k}]", None, False, primary=False) for k in range(1, len(STARTS) + 1))
        return (*losses, count, *gaps)

    def data(self, seed: int, training: Training) -> Data:
        """Empty batches, whatever the seed."""
        return _Nothing()

    def model(self, seed: int) -> nn.Module:
        """The five starts, whatever the seed."""
        return Points()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """``(5, K)`` losses of the five points, with graph."""
        losses: Tensor = model()
        return losses if self._in_order else losses[:, self._columns]

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Losses ``(5, K)`` and metrics of the points; the batches are empty and not read."""
        losses = self.losses(model, {}).detach().cpu()
        gaps = front_gap(_points(model).cpu())
        metrics = {f"{task}/loss": float(losses[:, k].double().mean()) for k, task in enumerate(self.tasks)}
        metrics["starts_on_front"] = float((gaps <= self.tolerance).sum())
        metrics |= {f"front_gap[start {k}]": float(gap) for k, gap in enumerate(gaps, 1)}
        return Evaluation(losses, metrics)

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The model itself: its one parameter is the point, shared by both losses."""
        return model

    def probe(self, model: nn.Module) -> dict[str, Tensor]:
        """The coordinates ``a`` and ``b`` of the five points, each ``(5,)``."""
        return dict(zip("ab", _points(model).unbind(-1), strict=True))

    @classmethod
    def landscape(cls) -> Landscape:
        """The mean of both losses on a grid, and the front."""
        places = torch.linspace(-REACH, REACH, CELLS, dtype=torch.float64)
        points = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1)
        return Landscape(("a", "b"), places, landscape(points).mean(-1), pareto_front(201)[0])


def _points(model: nn.Module) -> Tensor:
    assert isinstance(model, Points)
    return model.points.detach().clone()
