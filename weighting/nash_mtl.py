"""Nash-MTL: the update is the Nash bargaining solution of the tasks, in which each gains alike in proportion.

Source    Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya, Multi-Task Learning as a Bargaining Game, ICML 2022,
          arXiv:2202.01017, Claim 3.1; numbers checked against an exact solution and the authors' code (traces).
Symbols   G Gramian; w > 0 solves Gw = 1 / w, element by element; hence w_i (Gw)_i = 1 and |J'w| = sqrt(K). It is the minimum
          of w'Gw / 2 - sum_i log w_i. The gradient of a task does not change when its loss is scaled. The sum is free.
Departs   from the authors' code, which solves a chain of up to 20 convex problems from the last weights on and is often far
          from the solution where norms differ: here Newton's method reaches it, and no state is kept. That code also clips
          the shared gradient to norm 1, which at the solution is always the factor 1 / sqrt(K): left to the learning rate.
          Where there is no solution, since some combination of the gradients with weights above 0 is 0, a millionth of the
          squared norms is added to the diagonal of G (guard ``no_bargain``). A gradient of 0 gets the weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from weighting._gramian import Gradients, LastAnswer, _FromGramian, equal_shares, gradients
from weighting.claim import Claim
from weighting.observation import Observation


class NashBargaining(_FromGramian):
    """The solution of Gw = 1 / w.

    >>> from weighting import Observation, create
    >>> now = Observation(losses=[1.0, 1.0], gramian=[[1.0, 0.0], [0.0, 4.0]])
    >>> create("nash_mtl", 2).weights(now).round(decimals=6).tolist()
    [1.0, 0.5]
    """

    name = "nash_mtl"
    claims = (
        Claim.NONNEGATIVE
        | Claim.PERMUTATION_EQUIVARIANT
        | Claim.FINITE_ON_EXTREME_LOSSES
        | Claim.UNDOES_TASK_SCALES
        | Claim.OPPOSES_NO_TASK
        | Claim.EQUAL_GAINS
    )
    guards = {"no_bargain": "the gradients cancel for some weights above 0: a millionth was added to the diagonal"}

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = ()) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self._last = LastAnswer()

    def rule(self, seen: Gradients) -> Tensor:
        """w, above 0 for the tasks that count."""
        return torch.where(seen.counts, self._solved(seen)[0] / seen.norms, 0.0)

    def update(self, after: Observation) -> None:
        """Count what the rule has no answer for."""
        super().update(after)
        seen = gradients(self.read(after, "gramian"), self.present(after))
        self.count_guard("no_bargain", self._solved(seen)[1])

    def _solved(self, seen: Gradients) -> tuple[Tensor, Tensor]:
        return self._last(partial(equal_shares, power=1.0), seen.cosines, torch.ones_like(seen.norms))
