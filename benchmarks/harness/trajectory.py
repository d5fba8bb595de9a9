"""The trajectory of a run while it grows: what ``trajectory.parquet`` will hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.contract import Problem, replicas

COLUMNS = ("train_loss", "val_loss", "weight", "count")
"""Of every run; others join them where there is something to log."""


class Trajectory:
    """Raw losses, weights and probes of the logged steps of one run; NaN where something was not measured."""

    def __init__(self, problem: Problem) -> None:
        self.tasks = problem.tasks
        self.batch_shape = tuple(problem.batch_shape)
        self.replicas = replicas(problem.batch_shape)
        self.steps: list[int] = []
        self.columns: dict[str, list[list[float]]] = {column: [] for column in COLUMNS}
        """Column -> one row for each logged step, of as many numbers as there are replicas and tasks."""

    def open_row(self, step: int) -> bool:
        """Make the row of a step; False where it is there."""
        if self.steps and self.steps[-1] == step:
            return False
        self.steps.append(step)
        for rows in self.columns.values():
            rows.append(self._nothing())
        return True

    def fill(self, column: str, values: Tensor) -> None:
        """Set what was measured in the last row. values: ``(*batch_shape, K)``, or ``(*batch_shape)`` for all tasks alike.

        Raises ValueError on another shape.
        """
        rows = self.columns.setdefault(column, [self._nothing() for _ in self.steps])
        shape = (*self.batch_shape, len(self.tasks))
        if tuple(values.shape) == self.batch_shape:
            values = values.unsqueeze(-1).expand(shape)
        if tuple(values.shape) != shape:
            expected = f"expected {column} of shape {shape} or {self.batch_shape}"
            raise ValueError(f"{expected}, found {tuple(values.shape)}")
        rows[-1] = values.detach().double().flatten().tolist()

    def fill_probes(self, kind: str, probes: Mapping[str, Tensor]) -> None:
        """Set numbers of the problem or the method in the last row. kind: ``OF_PROBLEM`` or ``OF_METHOD``."""
        for name, values in probes.items():
            self.fill(kind + name, values if isinstance(values, Tensor) else torch.as_tensor(values, dtype=torch.float64))

    def frame(self) -> pd.DataFrame:
        """One row per step, replica and task, as ``benchmarks.records.schema`` describes it."""
        rows, tasks = len(self.steps), self.tasks
        content: dict[str, Any] = {
            "step": np.repeat(np.array(self.steps, dtype=np.int64), self.replicas * len(tasks)),
            "replica": np.tile(np.repeat(np.arange(self.replicas, dtype=np.int32), len(tasks)), rows),
            "task": np.tile(np.array(tasks, dtype=object), rows * self.replicas),
        }
        # As records have it, whatever the order in a checkpoint.
        first = [column for column in COLUMNS if column in self.columns]
        for column in (*first, *(column for column in self.columns if column not in first)):
            values = self.columns[column]
            content[column] = np.array(values, dtype=float).reshape(-1)
        return pd.DataFrame(content)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"steps": self.steps, "columns": self.columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.steps, self.columns = state["steps"], state["columns"]

    def _nothing(self) -> list[float]:
        return [math.nan] * (self.replicas * len(self.tasks))
