"""What a step object logs: means of losses, weights and counts per task since the last log."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FIELDS = ("loss", "weight", "count")


class StepLog:
    """Means over the steps in which a task was present. Nothing waits for a device before ``read``."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.sums: Tensor | None = None
        """``(3, K)`` of the loss, the weight and the count of the steps in which the task was present."""
        self.steps: Tensor | None = None
        """``(K,)`` how many they were."""

    def add(self, losses: Tensor, weights: Tensor, counts: Tensor) -> None:
        """One optimizer step, each ``(K,)``; count 0: the task was absent."""
        present = counts > 0
        rows = torch.where(present, torch.stack([losses.to(counts), weights.to(counts), counts]), 0.0)
        self.sums = rows if self.sums is None else self.sums + rows
        self.steps = present.to(counts) if self.steps is None else self.steps + present

    def read(self) -> dict[str, float]:
        """``loss/<task>``, ``weight/<task>`` and ``count/<task>`` since the last call; NaN for tasks that were absent."""
        if self.sums is None or self.steps is None:
            return {}
        means = (self.sums / self.steps).tolist()
        self.sums = self.steps = None
        return {
            f"{field}/{task}": row[i] for field, row in zip(FIELDS, means, strict=True) for i, task in enumerate(self.tasks)
        }

    def state_dict(self) -> dict[str, Tensor | None]:
        """What was added since the last ``read``."""
        return {"sums": self.sums, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on where ``state`` was taken."""
        self.sums, self.steps = state["sums"], state["steps"]
