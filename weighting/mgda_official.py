"""MGDA as its authors' code solves it: projected gradients from the best pair of tasks, stopped early.

Source    isl-org/MultiObjectiveOptimization@bf5bbb3, multi_task/min_norm_solvers.py, find_min_norm_element; numbers checked
          against it (traces).
Symbols   G Gramian; w a point of the simplex. The shortest vector c a + (1 - c) b of two vectors has c = 0.999 or 0.001
          where it lies at an end. Start: the pair of tasks whose shortest vector is shortest. A round, for K > 2: d is -Gw
          minus its mean; p = w + t d, projected onto the simplex, t the distance to the nearest bound of [0, 1]; the next
          point is the shortest vector between w and p. Where it is nearer than 1e-5 to w in the sum of |.|, w is the answer.
Departs   from the method as that code does: the minimum is often not reached, K = 2 never has a weight of 0, bounds nearer
          than 1e-7 are skipped, whatever the units of t, and which of equal tasks gets the weight depends on their order.
          From that code: it means to stop after 250 rounds and never counts them; here the point after ``rounds`` rounds is
          the answer (guard ``still_moving``). Where no pair has a squared length below 1e8 it fails; here the best pair is
          taken all the same (guard ``long_gradients``). Where all gradients are 0, weights are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from weighting._checks import check
from weighting._gramian import Gradients, LastAnswer, _FromGramian, gradients, seen_none, times
from weighting._shares import projected
from weighting.claim import Claim
from weighting.observation import Observation

LONGEST = 1e8
"""Squared length of a pair's shortest vector from which on that code does not count the pair."""
NEAREST_BOUND = 1e-7
SMALLEST_CHANGE = 1e-5
NEAR_THE_SECOND = 0.001


class ProjectedMinimumNorm(_FromGramian):
    """A point of the simplex at which the combined gradient is short.

    rounds  >= 1, of projected gradients at most

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, 1.0], [1.0, 4.0]])
    >>> create("mgda_official", 2).weights(now).round(decimals=6).tolist()
    [0.999, 0.001]
    """

    name = "mgda_official"
    variant_of = "mgda"
    acts_on = "shared"
    claims = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.FINITE_ON_EXTREME_LOSSES
    guards = {
        "long_gradients": "no pair had a shortest vector of squared length below 1e8: the shortest was taken all the same",
        "still_moving": "the last round came before the point rested",
    }

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), rounds: int = 250) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.rounds: int = check(self.name, "rounds", rounds, integer=True, ge=1)
        self._last = LastAnswer()

    def rule(self, seen: Gradients) -> Tensor:
        """w, sum 1 over the tasks that are there."""
        return self._solved(seen)[0]

    def update(self, after: Observation) -> None:
        """Count what the rule has no answer for."""
        super().update(after)
        seen = gradients(self.read(after, "gramian"), self.present(after))
        special = self._solved(seen)[1]
        self.count_guard("long_gradients", special[..., 0])
        self.count_guard("still_moving", special[..., 1])

    def _solved(self, seen: Gradients) -> tuple[Tensor, Tensor]:
        lengths = torch.where(seen.counts, seen.norms, 0.0)
        return self._last(partial(_shortest, rounds=self.rounds), seen.cosines, lengths, seen.present)


def _shortest(cosines: Tensor, lengths: Tensor, present: Tensor, *, rounds: int) -> tuple[Tensor, Tensor]:
    """The point and, bool ``(*batch_shape, 2)``, whether gradients were too long and whether it still moved."""
    gramian = cosines * lengths.unsqueeze(-1) * lengths.unsqueeze(-2)
    point, squared = _best_pair(gramian, present)
    number = present.sum(-1, keepdim=True)
    moving = number > 2
    for _ in range(rounds):
        if seen_none(moving):
            break
        ahead = _next_point(gramian, point, present)
        mixed = _shortest_between(gramian, point, ahead)
        moving = moving & ((mixed - point).abs().sum(-1, keepdim=True) >= SMALLEST_CHANGE)
        point = torch.where(moving, mixed, point)
    return point, torch.cat([(number > 1) & (squared >= LONGEST), moving], -1)


def _best_pair(gramian: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The point on the best pair, or the one task that is there, and its squared length ``(*batch_shape, 1)``."""
    number = gramian.shape[-1]
    if number == 1:
        return present.to(gramian), gramian.squeeze(-1)
    first, second = torch.triu_indices(number, number, 1, device=gramian.device)
    squares = gramian.diagonal(dim1=-2, dim2=-1)
    share, squared = _mix(squares[..., first], gramian[..., first, second], squares[..., second])
    squared = torch.where(present[..., first] & present[..., second], squared, float("inf"))
    least = squared.amin(-1, keepdim=True)
    # The first of equally good ones.
    best = (squared <= least) & ((squared <= least).cumsum(-1) == 1)
    names = torch.eye(number, dtype=gramian.dtype, device=gramian.device)
    points = share.unsqueeze(-1) * names[first] + (1 - share).unsqueeze(-1) * names[second]
    pair = torch.where(best.unsqueeze(-1), points, 0.0).sum(-2)
    return torch.where(least < float("inf"), pair, present.to(gramian)), least


def _mix(one: Tensor, product: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The share of the first of two vectors in the shortest one between them, and its squared length.

    one, other  their squared lengths; ``product``: their inner product
    """
    at_first, at_second = product >= one, product >= other
    apart = one + other - 2 * product
    share = (other - product) / torch.where(at_first | at_second, 1.0, apart)
    squared = other + share * (product - other)
    share = torch.where(at_first, 1 - NEAR_THE_SECOND, torch.where(at_second, NEAR_THE_SECOND, share))
    return share, torch.where(at_first, one, torch.where(at_second, other, squared))


def _next_point(gramian: Tensor, point: Tensor, present: Tensor) -> Tensor:
    """Down the slope to the nearest bound, and back to the simplex."""
    slope = torch.where(present, -times(gramian, point), 0.0)
    direction = torch.where(present, slope - slope.sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp(min=1), 0.0)
    down = _nearest_bound(-point, direction, direction < 0)
    up = _nearest_bound(1 - point, direction, direction > 0)
    # As that code has it: 1 stands for a bound that is not there in the one case, and for none in the other.
    length = torch.minimum(torch.where(down < float("inf"), down, 1.0), up)
    return projected(point + length * direction, torch.ones_like(length), present)


def _nearest_bound(distance: Tensor, direction: Tensor, towards: Tensor) -> Tensor:
    """How far to go, ``(*batch_shape, 1)``; infinitely far where no bound is ahead."""
    bounds = distance / torch.where(towards, direction, 1.0)
    return torch.where(towards & (bounds > NEAREST_BOUND), bounds, float("inf")).amin(-1, keepdim=True)


def _shortest_between(gramian: Tensor, point: Tensor, ahead: Tensor) -> Tensor:
    """The shortest vector between two points of the simplex, as a point."""
    here, there = times(gramian, point), times(gramian, ahead)
    products = [(one * other).sum(-1, keepdim=True) for one, other in ((point, here), (ahead, here), (ahead, there))]
    share, _ = _mix(*products)
    return share * point + (1 - share) * ahead
