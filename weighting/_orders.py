"""Orders in which a method visits the tasks: a function of seed and step, so that a resumed run repeats them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def draw_orders(seed: int, step: int, num_tasks: int) -> Tensor:
    """For each task, all others in an order drawn for it: int64 ``(K, K - 1)``, on the CPU."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    keys = torch.rand(num_tasks, num_tasks, generator=generator, device="cpu")
    # A task itself comes last, and is cut off.
    return keys.fill_diagonal_(2.0).argsort(-1)[:, :-1]
