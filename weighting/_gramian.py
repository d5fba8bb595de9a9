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
TOLERANCE = 1e-14
"""Relative; signs of smaller numbers are those of rounding."""


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
    return Gradients(cosines, norms, counts, present)


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
        seen = gradients(self.read(after, "gramian"), self.present(after))
        self.count_guard("zero_gradient", (seen.present & seen.counts.logical_not()).any(-1))

    @abstractmethod
    def rule(self, seen: Gradients) -> Tensor:
        """The weights of the tasks that count, ``(*batch_shape, K)``."""


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, ``(..., K)``."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def solve_on(matrix: Tensor, right: Tensor, support: Tensor) -> Tensor:
    """x with matrix x = right on the support and 0 elsewhere; ``right`` ``(..., K, m)`` may hold several columns.

    Of a singular matrix, the solution of least norm, near enough: a ridge and steps of the proximal point method.
    """
    both = support.unsqueeze(-1) & support.unsqueeze(-2)
    alone = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor, _ = torch.linalg.cholesky_ex(torch.where(both, matrix, alone) + RIDGE * alone)
    wanted = torch.where(support.unsqueeze(-1), right, 0.0)
    found = torch.cholesky_solve(wanted, factor)
    for _ in range(REFINEMENTS):
        found = torch.cholesky_solve(wanted + RIDGE * found, factor)
    return torch.where(support.unsqueeze(-1), found, 0.0)


def pivot(solve: Callable[[Tensor], tuple[Tensor, Tensor]], support: Tensor, allowed: Tensor) -> Tensor:
    """The point >= 0 whose slope is 0 where it is positive and >= 0 where it is 0, by block pivoting.

    solve    support -> point and slope, both 0 where that is not decided by it
    support  where to begin; ``allowed``: which elements may be positive; bool ``(..., K)``
    """
    size = support.shape[-1]
    place = torch.arange(1, size + 1, device=support.device)
    fewest = torch.full_like(support[..., :1], size + 1, dtype=torch.int64)
    patience = torch.full_like(fewest, 3)
    for _ in range(20 + 2 * size):
        point, slope = solve(support)
        wrong = (support & _negative(point)) | (allowed & support.logical_not() & _negative(slope))
        if (seen := visible(wrong)) is not None and not any(seen):
            break
        number = wrong.sum(-1, keepdim=True)
        better = number < fewest
        fewest = torch.where(better, number, fewest)
        patience = torch.where(better, 3, patience - 1)
        last = (wrong * place).amax(-1, keepdim=True)
        support = support ^ torch.where(patience >= 0, wrong, wrong & (place == last))
    return point.clamp(min=0.0)


def _negative(values: Tensor) -> Tensor:
    return values < -TOLERANCE * values.abs().amax(-1, keepdim=True)


def least_quadratic(matrix: Tensor, linear: Tensor, allowed: Tensor) -> Tensor:
    """The minimum of y' matrix y / 2 + linear' y over y >= 0, 0 where not ``allowed``: ``(..., K)``."""

    def solve(support: Tensor) -> tuple[Tensor, Tensor]:
        point = solve_on(matrix, -linear.unsqueeze(-1), support).squeeze(-1)
        return point, torch.where(support, 0.0, times(matrix, point) + linear)

    return pivot(solve, allowed & (linear < 0), allowed)


def equal_shares(matrix: Tensor, scale: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """z > 0 with (matrix z)_i = scale_i z_i^-power, by Newton's method, and where there is none: bool ``(*batch_shape)``.

    matrix  symmetric, positive semidefinite, with the diagonal ``scale`` > 0; power > 0

    A small multiple of the diagonal is added until its effect is seen to be small; where it is not, there is no solution, or
    one too far out, and that of the larger matrix is returned.
    """
    ridge = torch.full_like(scale[..., :1], FAR_RIDGE)
    z = torch.full_like(scale, 0.5)
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
        done = size < 1e-13 + 1e-3 * (ridge > 0) * small
        ridge = torch.where((size < 0.1) & small, 0.0, ridge)
        if (seen := visible(done & (ridge == 0) | (size < 1e-10) & (ridge > 0))) is not None and all(seen):
            break
    return z, (ridge > 0).squeeze(-1)


FAR_RIDGE = 1e-6
NEWTON_STEPS = 60
