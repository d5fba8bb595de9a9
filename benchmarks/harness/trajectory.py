"""The trajectory of a run while it grows: what ``trajectory.parquet`` will hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from benchmarks.base import Problem, replicas

Column = Literal["train_loss", "val_loss", "weight", "count"]
COLUMNS: tuple[Column, ...] = ("train_loss", "val_loss", "weight", "count")

Rows = list[list[float]]
"""One row for each logged step, of as many numbers as the problem has replicas and tasks."""


class Trajectory:
    """Raw losses and weights of the logged steps of one run; NaN where something was not measured."""

    def __init__(self, problem: Problem) -> None:
        self.tasks = problem.tasks
        self.replicas = replicas(problem.batch_shape)
        self.steps: list[int] = []
        self.columns: dict[Column, Rows] = {column: [] for column in COLUMNS}
        self.probes: dict[str, Rows] = {}

    def open_row(self, step: int, probe: Callable[[], Mapping[str, Tensor]]) -> None:
        """Make the row of a step, unless it is there. probe: gives name -> ``(replicas,)``."""
        if self.steps and self.steps[-1] == step:
            return
        self.steps.append(step)
        for rows in self.columns.values():
            rows.append([math.nan] * (self.replicas * len(self.tasks)))
        for name, values in probe().items():
            self.probes.setdefault(name, []).append(values.detach().flatten().tolist())

    def fill(self, column: Column, values: Tensor) -> None:
        """Set what was measured in the last row. values: ``(*batch_shape, K)``."""
        self.columns[column][-1] = values.double().flatten().tolist()

    def frame(self) -> pd.DataFrame:
        """One row per step, replica and task, as ``benchmarks.record`` describes it."""
        rows, tasks = len(self.steps), self.tasks
        content: dict[str, Any] = {
            "step": np.repeat(np.array(self.steps, dtype=np.int64), self.replicas * len(tasks)),
            "replica": np.tile(np.repeat(np.arange(self.replicas, dtype=np.int32), len(tasks)), rows),
            "task": np.tile(np.array(tasks, dtype=object), rows * self.replicas),
        }
        for column, values in self.columns.items():
            content[column] = np.array(values, dtype=float).reshape(-1)
        for name, values in self.probes.items():
            content[f"probe.{name}"] = np.repeat(np.array(values, dtype=float).reshape(-1), len(tasks))
        return pd.DataFrame(content)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"steps": self.steps, "columns": self.columns, "probes": self.probes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.steps, self.columns, self.probes = state["steps"], state["columns"], state["probes"]
