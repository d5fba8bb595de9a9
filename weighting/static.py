"""Static weighting: constants given by the user, tuned or not.

Source    Linear scalarization with fixed coefficients; Xin et al., Do Current Multi-Task Optimization Methods in Deep
          Learning Even Help?, NeurIPS 2022, arXiv:2209.11379, compare every method with the front of its settings.
Symbols   w_i given, constant.
Departs   nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weighting._checks import check, task_vector
from weighting.claim import Claim
from weighting.contract import Weighter
from weighting.observation import Observation


class Static(Weighter):
    """The given weights at every step.

    weights  K numbers, none negative, not all zero; None: all ones

    >>> from weighting import Observation, create
    >>> create("static", 2, weights=[1.0, 0.25]).weights(Observation(losses=[5.0, 1.0])).tolist()
    [1.0, 0.25]
    """

    name = "static"
    adaptive = False
    answers_from = "state"
    claims = Claim.NONNEGATIVE | Claim.SCALE_FREE | Claim.TASK_SCALE_FREE | Claim.FINITE_ON_EXTREME_LOSSES

    given: Tensor

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), weights: Sequence[float] | None = None) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        given = task_vector(self.name, "weights", 1.0 if weights is None else weights, num_tasks)
        for number in given.tolist():
            check(self.name, "every number of weights", number, ge=0)
        check(self.name, "the sum of weights", float(given.sum()), gt=0)
        self.add_state("given", given)

    def weights(self, now: Observation) -> Tensor:
        """The given weights, ``(*batch_shape, K)``."""
        return self.as_weights(self.given, now)
