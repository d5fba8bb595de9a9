"""Problems that are the tiny one but for one property."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from tiny_problem import Network, Tiny
from torch import Tensor, nn

from benchmarks.contract import Batch


class Noisy(Network):
    """With a layer in which a step leaves traces or draws numbers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.between = nn.BatchNorm1d(3) if kind == "batch norm" else nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.between(self.shared(x))
        if self.kind == "numpy":
            hidden = hidden * (1 + 0.1 * float(np.random.rand()) + 0.1 * random.random()) if self.training else hidden  # noqa: NPY002
        return torch.tanh(hidden)


class NoisyTiny(Tiny):
    """``kind``: batch norm, dropout, or numpy: draws of NumPy and Python."""

    name = "noisy_tiny"

    def __init__(self, *, tasks: Sequence[str] | None = None, kind: str = "dropout") -> None:
        super().__init__(tasks=tasks)
        self.kind = kind

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Noisy(self.kind)


class Sparse(Tiny):
    """Every example has its label for some of the tasks only, and now and then a batch lacks a task."""

    name = "sparse"

    def counts(self, batch: Batch) -> Tensor:
        return self._labelled(batch).sum(0)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Network)
        hidden, here = model(batch["x"]), self._labelled(batch)
        answers = torch.cat([model.heads[task](hidden) for task in self.tasks], dim=-1)
        # 0 / 0 for a task without labels: nobody may look at it.
        return ((answers - batch["y"]).square() * here).sum(0) / here.sum(0).clamp(min=1) + 0 / here.sum(0)

    def _labelled(self, batch: Batch) -> Tensor:
        here: Tensor = batch["x"][:, :3] > 0.5
        return here


class Frozen(Network):
    """With a large part that is not trained, in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Linear(1000, 1000).bfloat16().requires_grad_(False)


class FrozenTiny(Tiny):
    """A frozen part of four megabytes."""

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Frozen()
