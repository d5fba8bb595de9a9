"""What the methods on the Gramian share: the Gramian in unit gradients, and solvers on it for all replicas at once.

Source    Block pivoting: Judice and Pires, A Block Principal Pivoting Algorithm for Large-Scale Strictly Monotone Linear
          Complementarity Problems, Computers and Operations Research 21, 1994 (not consulted); steps and bounds are ours.
Symbols   G Gramian; n_i = sqrt(G_ii) norm of a gradient; C_ij = G_ij / (n_i n_j) the cosines. A problem in the weights x
          is one in y_i = n_i x_i with C in the place of G, so that no solver meets the scales of the gradients.
Meaning   Everything is float64 and of shape ``(*batch_shape, K)`` or ``(*batch_shape, K, K)``. Loops have a fixed largest
          number of rounds; they end earlier where all replicas are seen to be done without waiting for a device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weighting.contract import Weighter
from weighting.observation import Needs, Observation, visible

RIDGE = 1e-10
"""Added to the diagonal of a matrix of cosines before it is factored; refinement takes its effect away again."""
REFINEMENTS = 3
TOLERANCE = 1e-13
"""Relative; signs of smaller numbers are those of rounding."""
ROUNDS = 20
"""Of pivoting, at most; five are usual, a dozen is much."""
PATIENCE = 3
"""Rounds without a smaller number of wrong signs, after which one element is moved at a time."""
INTERIOR_STEPS = 40
NEWTON_STEPS = 60
FAR_RIDGE = 1e-6
"""Added to a diagonal of 1 until a solution without it is in reach."""
SMALLEST_PRODUCT = 1e-18
"""Of y and slope, on average, where the interior-point method stops: the square root is beyond what can be told."""


@dataclass(frozen=True)
class Gradients:
    """The Gramian of the tasks that are there, in unit gradients."""

    cosines: Tensor
    """``(*batch_shape, K, K)``; the identity for tasks that do not count."""
    norms: Tensor
    """``(*batch_shape, K)``; 1 for tasks that do not count."""
    counts: Tensor
    """Which tasks count: they are present, with a gradient that is not 0. Bool ``(*batch_shape, K)``."""
    present: Tensor
    """Bool ``(*batch_shape, K)``."""

    @property
    def number(self) -> Tensor:
        """How many tasks are present, at least 1: ``(*batch_shape, 1)``."""
        return self.present.sum(-1, keepdim=True).clamp(min=1).double()


def gradients(gramian: Tensor, present: Tensor) -> Gradients:
    """Cut absent tasks and zero gradients out of a Gramian."""
    gramian = gramian.double()
    squares = gramian.diagonal(dim1=-2, dim2=-1)
    counts = present & (squares > 0)
    norms = torch.where(counts, squares, 1.0).sqrt()
    both = counts.unsqueeze(-1) & counts.unsqueeze(-2)
    alone = torch.eye(gramian.shape[-1], dtype=gramian.dtype, device=gramian.device)
    cosines = torch.where(both, gramian / norms.unsqueeze(-1) / norms.unsqueeze(-2), alone)
    return Gradients(semidefinite(cosines), norms, counts, present)


def semidefinite(cosines: Tensor) -> Tensor:
    """Lift a matrix of cosines, ``(..., K, K)``, that rounding has made indefinite; all others stay as they are.

    Products that were formed in float32 let parallel gradients have a cosine above 1: a rule would find a direction that
    lowers its objective without end, and give weights without bound.
    """
    short: Tensor = -torch.linalg.eigvalsh(cosines)[..., :1, None].clamp(max=0.0)
    alone = torch.eye(cosines.shape[-1], dtype=cosines.dtype, device=cosines.device)
    return (cosines + short * alone) / (1 + short)


def gradients_of_rows(rows: Tensor, present: Tensor) -> Gradients:
    """As ``gradients``, of the gradients themselves, ``(*batch_shape, K, numbers)``: no square of a number is formed."""
    rows = rows.double()
    largest = rows.abs().amax(-1, keepdim=True)
    counts = present & (largest > 0).squeeze(-1)
    scaled = rows / torch.where(largest > 0, largest, 1.0)
    lengths = torch.where(counts, torch.linalg.vector_norm(scaled, dim=-1), 1.0)
    units = torch.where(counts.unsqueeze(-1), scaled / lengths.unsqueeze(-1), 0.0)
    alone = torch.diag_embed(counts.logical_not().double())
    return Gradients(units @ units.mT + alone, torch.where(counts, lengths * largest.squeeze(-1), 1.0), counts, present)


class _FromGramian(Weighter):
    """A method whose weights are a function of the Gramian."""

    needs = Needs.GRAMIAN
    answers_from = "state"
    guards = {"zero_gradient": "a task that is there had a gradient of 0, for which the rule has no answer"}

    def weights(self, now: Observation) -> Tensor:
        """The answer of the rule, ``(*batch_shape, K)``; as the plain mean where all gradients are 0."""
        seen = gradients(self.read(now, "gramian"), self.present(now))
        found = torch.where(seen.counts.any(-1, keepdim=True), self.rule(seen), 1 / seen.number)
        return self.as_weights(found, now)

    def update(self, after: Observation) -> None:
        """Count gradients of 0."""
        zero = self.read(after, "gramian").diagonal(dim1=-2, dim2=-1) <= 0
        self.count_guard("zero_gradient", (zero & self.present(after)).any(-1))

    @abstractmethod
    def rule(self, seen: Gradients) -> Tensor:
        """The weights of the tasks that count, ``(*batch_shape, K)``."""


class LastAnswer:
    """What a pure function of tensors gave last, so that a step's second question for the same numbers costs nothing."""

    def __init__(self) -> None:
        self.given: tuple[Tensor, ...] = ()
        self.found: tuple[Tensor, Tensor] | None = None

    def __call__(self, function: Callable[..., tuple[Tensor, Tensor]], *given: Tensor) -> tuple[Tensor, Tensor]:
        """function(*given), or its last answer where that is seen to be the same without waiting for a device."""
        if self.found is not None and all(map(_seen_equal, given, self.given)):
            return self.found
        found = function(*given)
        if all(visible(one.flatten()[:1]) is not None for one in given):
            # What the caller changes in place later must not change what was asked.
            self.given, self.found = tuple(one.clone() for one in given), found
        return found


def _seen_equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.device == other.device and seen_none(one != other)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, ``(..., K)``."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def solve_on(matrix: Tensor, right: Tensor, support: Tensor, refinements: int = REFINEMENTS) -> Tensor:
    """x with matrix x = right on the support and 0 elsewhere; ``right`` ``(..., K, m)`` may hold several columns.

    With the ridge on the diagonal. Each refinement, a step of the proximal point method, takes more of its effect away; of a
    singular matrix, the solution of least norm comes out, near enough.
    """
    both = support.unsqueeze(-1) & support.unsqueeze(-2)
    alone = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor, _ = torch.linalg.cholesky_ex(torch.where(both, matrix, alone) + RIDGE * alone)
    wanted = torch.where(support.unsqueeze(-1), right, 0.0)
    found = torch.cholesky_solve(wanted, factor)
    for _ in range(refinements):
        found = torch.cholesky_solve(wanted + RIDGE * found, factor)
    return torch.where(support.unsqueeze(-1), found, 0.0)


def pivot(
    solve: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], support: Tensor, allowed: Tensor, rounds: int
) -> tuple[Tensor, Tensor]:
    """The support of the point >= 0 whose slope is 0 where it is positive and >= 0 where it is 0, by block pivoting.

    solve    support -> point, slope, and the size of the numbers of which the slope is the sum
    support  where to begin; ``allowed``: which elements may be positive; bool ``(..., K)``

    Also whether it was found: bool ``(..., 1)``. Dependent gradients can make it go round in circles.
    """
    place = torch.arange(1, support.shape[-1] + 1, device=support.device)
    fewest, patience = torch.full_like(place[:1], len(place) + 1), torch.full_like(place[:1], PATIENCE)
    for _ in range(rounds):
        point, slope, sizes = solve(support)
        negative = point < -TOLERANCE * point.abs().amax(-1, keepdim=True)
        wrong = torch.where(support, negative, allowed & (slope < -TOLERANCE * sizes))
        if seen_none(wrong):
            break
        number = wrong.sum(-1, keepdim=True)
        patience = torch.where(number < fewest, PATIENCE, patience - 1)
        fewest = torch.minimum(fewest, number)
        last = (wrong * place).amax(-1, keepdim=True)
        support = support ^ (wrong & ((patience >= 0) | (place == last)))
    return support, wrong.any(-1, keepdim=True).logical_not()


def seen_none(wrong: Tensor) -> bool:
    """Whether none is true, as far as it can be seen without waiting."""
    seen = visible(wrong.any())
    return seen is not None and not any(seen)


def least_quadratic(matrix: Tensor, linear: Tensor, allowed: Tensor) -> Tensor:
    """The minimum of y' matrix y / 2 + linear' y over y >= 0, 0 where not ``allowed``: ``(..., K)``."""
    right, sizes = -linear.unsqueeze(-1), matrix.abs()

    def solve(support: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        point = solve_on(matrix, right, support, 0).squeeze(-1)
        return point, times(matrix, point) + linear, times(sizes, point.abs()) + linear.abs()

    support, solved = pivot(solve, allowed & (linear < 0), allowed, ROUNDS)
    found = solve_on(matrix, right, support).squeeze(-1).clamp(min=0.0)
    if seen_none(solved.logical_not()):
        return found
    return torch.where(solved, found, inside(matrix, linear, allowed))


def inside(matrix: Tensor, linear: Tensor, allowed: Tensor) -> Tensor:
    """As ``least_quadratic``, by Mehrotra's interior-point method: dearer, and sure of itself with dependent gradients."""
    linear = torch.where(allowed, linear, 1.0)
    y = torch.ones_like(linear)
    slack = torch.ones_like(linear)
    diagonal = torch.eye(linear.shape[-1], dtype=linear.dtype, device=linear.device) * RIDGE**1.5
    for _ in range(INTERIOR_STEPS):
        off = slack - times(matrix, y) - linear
        factor, _ = torch.linalg.cholesky_ex(matrix + diagonal + torch.diag_embed(slack / y))
        mean = (y * slack).mean(-1, keepdim=True)
        ahead, slack_ahead = _direction(matrix, factor, off, -slack * y, y)
        length = _length(y, ahead, slack, slack_ahead)
        nearer = ((y + length * ahead) * (slack + length * slack_ahead)).mean(-1, keepdim=True)
        centre = (nearer / mean) ** 3 * mean
        ahead, slack_ahead = _direction(matrix, factor, off, centre - slack * y - ahead * slack_ahead, y)
        length = 0.995 * _length(y, ahead, slack, slack_ahead)
        going = (mean > SMALLEST_PRODUCT) & (length > 0)
        y = torch.where(going, y + length * ahead, y)
        slack = torch.where(going, slack + length * slack_ahead, slack)
        if seen_none(going):
            break
    return torch.where(allowed & (y > slack), y, 0.0)


def _direction(matrix: Tensor, factor: Tensor, off: Tensor, product: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    ahead = torch.cholesky_solve((off + product / y).unsqueeze(-1), factor).squeeze(-1)
    return ahead, times(matrix, ahead) - off


def _length(y: Tensor, ahead: Tensor, slack: Tensor, slack_ahead: Tensor) -> Tensor:
    """The longest step, at most 1, after which all are at least 0."""
    fastest = torch.maximum(-ahead / y, -slack_ahead / slack).amax(-1, keepdim=True)
    return 1 / fastest.clamp(min=1.0)


def equal_shares(matrix: Tensor, scale: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """z > 0 with (matrix z)_i = scale_i z_i^-power, by Newton's method, and where there is none: bool ``(*batch_shape)``.

    matrix  symmetric, positive semidefinite, with the diagonal ``scale`` > 0; power > 0

    A small multiple of the diagonal is added until its effect is seen to be small; where it is not, there is no solution, or
    one too far out, and that of the larger matrix is returned.
    """
    ridge = torch.full_like(scale[..., :1], FAR_RIDGE)
    z = (scale / matrix.clamp(min=0.0).sum(-1)) ** (1 / (1 + power))
    diagonal = torch.diag_embed(scale)
    for _ in range(NEWTON_STEPS):
        push = scale * z ** (-power)
        slope = times(matrix, z) + ridge * scale * z - push
        curvature = matrix + ridge.unsqueeze(-1) * diagonal + torch.diag_embed(power * push / z)
        factor, _ = torch.linalg.cholesky_ex(curvature)
        step = -torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1) / z
        size = step.abs().amax(-1, keepdim=True)
        z = z * (1 + step / (1 + (size - 0.25).clamp(min=0.0)))
        small = (ridge * z ** (1 + power)).amax(-1, keepdim=True) < 0.1
        # The error that a step leaves is about its square.
        done = (ridge == 0) & (size < 1e-8)
        ridge = torch.where((size < 0.1) & small, 0.0, ridge)
        if seen_none(done.logical_not() & ((ridge == 0) | (size >= 1e-10))):
            break
    return z, (ridge > 0).squeeze(-1)
