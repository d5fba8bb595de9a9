"""How far a training got: the one number by which a step is selected, a setting is tuned and curves of methods are compared.

It is the mean over tasks and replicas of L_val(t) / L_val(0): the share of its first loss that a task still has, so that
tasks of any scale count the same.

* A task without a scale, whose first loss is 0 or not finite (it is absent from the split), has no share and is in no mean.
* A first loss below 0 (a logarithmic density, say) has no share either; 2 - L_val(t) / L_val(0) stands for it, which also
  begins at 1 and falls with the loss.
* Where no task has a scale, or one that has is not finite now, there is no score: it is infinite, and loses to every other.
"""

from __future__ import annotations

import numpy as np

from benchmarks.records.schema import Floats


def score(losses: Floats, first: Floats) -> Floats:
    """Lower is better; 1 where training began.

    losses: ``(..., *S)`` validation losses, first: ``S`` those before training; the last dimension is the tasks, and all of
    ``S`` is meaned over. Returns ``(...)``.
    """
    counted = np.isfinite(first) & (first != 0)
    if not counted.any():
        return np.full(losses.shape[: losses.ndim - first.ndim], np.inf)
    # One dimension for all that is meaned over, those without a scale taken out of it.
    now, start = losses[..., counted], first[counted]
    with np.errstate(over="ignore", invalid="ignore"):
        share = now / start
        mean = np.where(start > 0, share, 2 - share).mean(axis=-1)
    return np.where(np.isfinite(mean), mean, np.inf)
