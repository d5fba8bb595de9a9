"""Nash-MTL as its authors' code solves it: a chain of convex problems that starts from the last weights.

Source    AvivNavon/nash-mtl@cce1840, methods/weight_methods.py, NashMTL; numbers checked against it (traces).
Symbols   G Gramian, F its Frobenius norm, w the weights, ones at first. A round: w <- argmin over a >= 0 of (1'G + f')a,
          subject to log a_i + log (Ga)_i >= 0 for every i, with f = 1/w + G(1/(Gw)), the gradient of the sum of these
          logarithms at w. That code divides G by F and puts F back, which changes nothing but the test for the end: the
          rounds end with the w for which |Gw/F - 1/w| < 1e-3 or |a - w| < 1e-6. The next step goes on from there.
Departs   from the method as that code does: 1'Ga is added to what is linear in the chain, and where norms differ the chain
          rests far from Gw = 1 / w, with constraints that hold with room to spare. From that code: problems are solved by
          an interior-point method of ours, to 1e-10 of the objective, and not by ECOS. Where a problem has no solution, both
          keep w: some (Gw)_i <= 0 can leave it without bound, and gradients that cancel leave it without a point (guard
          ``no_least_point``), as does a gradient of 0 (guard ``zero_gradient``). Its option to solve in every n-th step
          only is left out. A task that is absent keeps its weight.
Clipping  The training loop of that code, not the method, then multiplies the shared gradient by 1 / (|J'w| + 1e-6) where
          that is below 1: 1 / sqrt(K) at the solution of Gw = 1 / w.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from weighting._checks import check
from weighting._gramian import Gradients, LastAnswer, _FromGramian, equal_shares, gradients, seen_none, times
from weighting.claim import Claim
from weighting.observation import Observation

SMALLEST_RESIDUAL = 1e-3
SMALLEST_CHANGE = 1e-6
POINT_ROUNDS = 50
"""Of the interior-point method, at most; 12 to 25 are usual."""
CENTRE = 0.1
"""The products of multiplier and slack that are aimed at, in those of now."""
LARGEST_GAP = 1e-10
LARGEST_OFF = 1e-9
"""Both as shares of the multipliers' sum, half the objective, where the search ends."""
GOOD_ENOUGH = 1e-6
"""Both where the search does not come that near: with gradients that nearly cancel, numbers end before."""
FAR = 1e9
"""In units of where the search began: a point that is further out will not come to rest."""


class ChainedBargaining(_FromGramian):
    """The end of the chain of convex problems.

    rounds  >= 1, convex problems in a step at most

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, 0.0], [0.0, 4.0]])
    >>> create("nash_mtl_official", 2).weights(now).round(decimals=6).tolist()
    [1.0, 0.5]
    """

    name = "nash_mtl_official"
    variant_of = "nash_mtl"
    claims = Claim.NONNEGATIVE | Claim.PERMUTATION_EQUIVARIANT | Claim.FINITE_ON_EXTREME_LOSSES
    guards = {"no_least_point": "a problem of the chain had no solution: the weights stayed as they were"}

    last_weights: Tensor

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), rounds: int = 20) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.rounds: int = check(self.name, "rounds", rounds, integer=True, ge=1)
        self.add_state("last_weights", 1.0)
        self._last = LastAnswer()

    def weights(self, now: Observation) -> Tensor:
        """w, above 0, ``(*batch_shape, K)``; the last ones where all gradients are 0."""
        return self.as_weights(self.rule(gradients(self.read(now, "gramian"), self.present(now))), now)

    def rule(self, seen: Gradients) -> Tensor:
        """w, above 0; of tasks that are not there, the last ones."""
        return self._solved(seen)[0]

    def update(self, after: Observation) -> None:
        """Go on from the weights of this step."""
        super().update(after)
        found, failed = self._solved(gradients(self.read(after, "gramian"), self.present(after)))
        self.count_guard("no_least_point", failed)
        self.last_weights.copy_(found)

    def _solved(self, seen: Gradients) -> tuple[Tensor, Tensor]:
        norms = torch.where(seen.counts, seen.norms, 0.0)
        return self._last(partial(_chain, rounds=self.rounds), seen.cosines, norms, seen.present, self.last_weights)


def _chain(cosines: Tensor, norms: Tensor, present: Tensor, last: Tensor, *, rounds: int) -> tuple[Tensor, Tensor]:
    """The weights after the chain, absent ones as they were, and where a problem failed: bool ``(*batch_shape)``.

    norms  0 for tasks that are not there, or have a gradient of 0
    """
    # In unit gradients, as all solvers here: y_i = n_i w_i, s = Cy = Gw / n; n_i = 1 for those that do not count.
    units = torch.where(norms > 0, norms, 1.0)
    start, none = equal_shares(cosines, torch.ones_like(norms), 1.0)
    going = present.any(-1, keepdim=True) & (present & (norms <= 0)).any(-1, keepdim=True).logical_not()
    failed = going & none.unsqueeze(-1)
    weights, going = last.double(), going & failed.logical_not()
    size = torch.linalg.matrix_norm(cosines * norms.unsqueeze(-1) * norms.unsqueeze(-2)).unsqueeze(-1)
    for _ in range(rounds):
        if seen_none(going):
            break
        y = torch.where(norms > 0, weights * units, 1.0)
        products = times(cosines, y)
        linear = times(cosines, norms) + 1 / y + times(cosines, 1 / products)
        found, solved = _least_point(cosines, linear, start)
        found = torch.where(present, found / units, weights)
        residual = torch.where(present, norms * products / size - 1 / weights, 0.0)
        at_rest = (torch.linalg.vector_norm(residual, dim=-1, keepdim=True) < SMALLEST_RESIDUAL) | (
            torch.linalg.vector_norm(found - weights, dim=-1, keepdim=True) < SMALLEST_CHANGE
        )
        failed = failed | (going & solved.logical_not())
        going = going & solved & at_rest.logical_not()
        weights = torch.where(going, found, weights)
    return weights, failed.squeeze(-1)


def _least_point(matrix: Tensor, linear: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The least linear'y over y > 0 with y_i (matrix y)_i >= 1, ``(*batch_shape, K)``, and whether it was found.

    start  a point with y_i (matrix y)_i = 1

    By a primal-dual interior-point method on log y_i + log (matrix y)_i >= 0, with a slack for each and a multiplier.
    """
    y = 2 * start
    multipliers = ((linear * y).abs().sum(-1, keepdim=True) / (2 * y.shape[-1])).expand_as(y)
    for _ in range(POINT_ROUNDS):
        products = times(matrix, y)
        slack = (y * products).log()
        by_products = matrix * y.unsqueeze(-2) / products.unsqueeze(-1)
        off = y * linear - multipliers - times(by_products.mT, multipliers)
        total, gap = multipliers.sum(-1, keepdim=True), (multipliers * slack).sum(-1, keepdim=True)
        done = (off.abs().amax(-1, keepdim=True) <= LARGEST_OFF * total) & (gap <= LARGEST_GAP * total)
        going = done.logical_not() & (y <= FAR * start.amax(-1, keepdim=True)).all(-1, keepdim=True)
        if seen_none(going):
            break
        step, change = _newton_step(by_products, off, slack, multipliers)
        length = _length(step, times(by_products, step), change / multipliers, slack)
        moving = going & (length > 0)
        y = torch.where(moving, y * (1 + length * step), y)
        multipliers = torch.where(moving, multipliers + length * change, multipliers)
    return y, torch.maximum(off.abs().amax(-1, keepdim=True), gap) <= GOOD_ENOUGH * total


def _newton_step(by_products: Tensor, off: Tensor, slack: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """The step relative to y, and that of the multipliers, towards multiplier times slack = a tenth of their mean."""
    # Never far below what is off: slacks that are small too early block the way.
    wanted = CENTRE * torch.maximum((multipliers * slack).mean(-1, keepdim=True), off.abs().amax(-1, keepdim=True)) / slack
    both = by_products + torch.eye(slack.shape[-1], dtype=slack.dtype, device=slack.device)
    curvature = torch.diag_embed(multipliers) + by_products.mT @ (multipliers.unsqueeze(-1) * by_products)
    curvature = curvature + both.mT @ ((multipliers / slack).unsqueeze(-1) * both)
    factor, _ = torch.linalg.cholesky_ex(curvature)
    right = times(both.mT, wanted - multipliers) - off
    step = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    return step, wanted - multipliers - multipliers / slack * times(both, step)


def _length(step: Tensor, product_step: Tensor, multiplier_step: Tensor, slack: Tensor) -> Tensor:
    """The longest of twelve lengths, each half the one before, that leaves a hundredth of every slack; all relative."""
    fastest = torch.maximum(torch.maximum(-step, -product_step), -multiplier_step).amax(-1, keepdim=True)
    halves = 0.5 ** torch.arange(12, dtype=slack.dtype, device=slack.device)
    lengths = 0.99 / fastest.clamp(min=0.99) * halves
    steps = lengths.unsqueeze(-1) * step.unsqueeze(-2), lengths.unsqueeze(-1) * product_step.unsqueeze(-2)
    slacks = slack.unsqueeze(-2) + steps[0].log1p() + steps[1].log1p()
    allowed = (slacks > 0.01 * slack.unsqueeze(-2)).all(-1)
    return torch.where(allowed, lengths, 0.0).amax(-1, keepdim=True)
