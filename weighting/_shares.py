"""Shares of the weight where some tasks have nothing yet by which they could be weighed."""

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
