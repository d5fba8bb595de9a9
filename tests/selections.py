"""Loops whose evaluations are known beforehand."""

from __future__ import annotations

from typing import Any

import torch
from tiny_problem import Tiny

import weighting
from benchmarks.contract import Training
from benchmarks.harness.loop import Loop

STEPS, EVERY = 22, 5


def loop_of(selection: str, patience: int | None = None, lr: float = 0.3, **more: Any) -> Loop:
    changes: dict[str, Any] = {"steps": STEPS, "evaluate_every": EVERY, "log_every": 5, "lr": lr, "selection": selection}
    changes["patience"] = patience
    training = Training.model_validate({**Tiny.training.model_dump(), **changes})
    problem = Tiny()
    weighter = weighting.create("uniform", problem.num_tasks)
    return Loop(problem, problem.data(0, training), weighter, training, 0, device=torch.device("cpu"), **more)
