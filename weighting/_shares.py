"""Shares of the weight among some of the tasks."""

from __future__ import annotations

import torch
from torch import Tensor


def among_known(shares: Tensor, known: Tensor) -> Tensor:
    """Each unknown task gets 1 / K, the known ones divide the rest: ``(*batch_shape, K)``, sum 1.

    shares  of the known tasks, which sum to 1 among them; what stands for the others is not used
    known   bool, of the same shape
    """
    return torch.where(known, shares * known.to(shares).mean(-1, keepdim=True), 1 / shares.shape[-1])


def softmax_among(scores: Tensor, counted: Tensor) -> Tensor:
    """The softmax over the counted tasks, 0 for the others: ``(*batch_shape, K)``.

    scores   none of them infinite upwards; those of tasks that do not count are not used
    counted  bool, of the same shape
    """
    return torch.where(counted, scores.masked_fill(counted.logical_not(), float("-inf")).softmax(-1), 0.0)


def projected(values: Tensor, total: Tensor, chosen: Tensor) -> Tensor:
    """The nearest point at least 0 whose chosen elements sum to ``total`` >= 0, ``(*batch_shape, 1)``, by sorting."""
    inside = torch.where(chosen, values, float("-inf"))
    # In the distance to the largest one: whoever is further away than the total gets 0, and no large number is left.
    inside = (inside - inside.amax(-1, keepdim=True)).clamp(min=-total)
    falling = torch.where(chosen, inside, float("-inf")).sort(-1, descending=True).values
    number = torch.arange(1, values.shape[-1] + 1, dtype=values.dtype, device=values.device)
    thresholds = (falling.cumsum(-1) - total) / number
    last = (falling > thresholds).sum(-1, keepdim=True).clamp(min=1) - 1
    return (inside - thresholds.gather(-1, last)).clamp(min=0.0)
