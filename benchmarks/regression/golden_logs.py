"""What the replayed weights are computed from: made-up logs of a training run, fixed once recorded.

The logs are kept in the baseline beside the weights, so that a later NumPy that draws other numbers moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from weighting import Observation, RunFacts

SEED = 20241128
TASKS = 3
STEPS = 40
"""Twice CoBa's shortest warm-up, six windows of DWA."""
FACTS = RunFacts(steps=STEPS, steps_per_epoch=6, val_batches=3, seed=0)
"""From which methods take those defaults that depend on a run."""
DIGITS = 10
"""Significant decimal digits of a recorded number, four more than the tolerance needs."""

Log = Mapping[str, Sequence[Sequence[float]] | Sequence[Sequence[bool]] | Sequence[Sequence[Sequence[float]]]]
"""Field of ``Observation`` -> one row for the start and one for each step."""


def rounded(value: float) -> float:
    """The number as it is recorded."""
    return float(f"{value:.{DIGITS}g}")


def make_logs() -> dict[str, Log]:
    """``all_tasks``: three losses that fall at paces of their own; ``absent_tasks``: the same, some missing now and then."""
    draw = np.random.default_rng(SEED)
    rows = (STEPS + 1, TASKS)
    scale, pace = np.array([0.3, 1.0, 8.0]), np.array([0.06, 0.03, 0.005])
    fall = np.exp(-pace * np.arange(STEPS + 1)[:, None])
    # The last task turns after two thirds of the run: what methods do about divergence is seen too.
    fall[:, -1] *= np.exp(0.05 * np.maximum(0, np.arange(STEPS + 1) - 2 * STEPS // 3))
    losses, val_losses = (scale * fall * np.exp(draw.normal(0, 0.05, rows)) for _ in range(2))
    gradients = np.sqrt(scale)[:, None] * draw.normal(0, 1, (*rows, 2 * TASKS + 1))
    gramian = gradients @ gradients.swapaxes(-1, -2)
    values = {
        "losses": losses,
        "val_losses": val_losses,
        "losses_after": losses * np.exp(draw.normal(-0.03, 0.02, rows)),
        "val_losses_before": val_losses * np.exp(draw.normal(0.01, 0.02, rows)),
        "grad_norms": np.sqrt(np.diagonal(gramian, axis1=-2, axis2=-1)),
        "gramian": gramian,
    }
    complete = {name: np.vectorize(rounded)(value).tolist() for name, value in values.items()}
    masks = {name: (draw.random(rows) < 0.75).tolist() for name in ("present", "val_present")}
    # Drawn last: what was recorded before stays as it is.
    of_validation = gradients + np.sqrt(scale)[:, None] * draw.normal(0, 1, gradients.shape)
    complete["cross_gramian"] = np.vectorize(rounded)(of_validation @ gradients.swapaxes(-1, -2)).tolist()
    return {"all_tasks": complete, "absent_tasks": {**complete, **masks}}


def observations(log: Log) -> list[Observation]:
    """One for the start and one for each step, with everything that a method may ask for.

    Raises KeyError, TypeError or ValueError on a log of another shape.
    """
    fields = {"present": "counts", "val_present": "val_counts"}
    tensors = {fields.get(name, name): torch.tensor(rows, dtype=torch.float64) for name, rows in log.items()}
    count = len(tensors["losses"])
    return [Observation(**{name: tensor[row] for name, tensor in tensors.items()}) for row in range(count)]
