"""The step of each method on the Gramian over that of uniform weights, beside the same methods of other libraries.

Three situations: rows of one task each (a small Llama, K = 5), rows that few tasks share (K = 3), rows that many share
(K = 40).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.catalog import problem_class
from benchmarks.contract import Data, Problem, to_device
from benchmarks.harness.task_gradients import TaskGradients
from benchmarks.overhead.anchors import step_of, updates
from benchmarks.overhead.many_heads import ManyHeads
from benchmarks.overhead.steps import WARMUP_ROUNDS, block_seconds, under_weighter
from weighting import METHODS, Needs

ROUNDS = {"code_lm": 30, "multidigits": 100, "many_heads": 30}
ALLOWED = {"code_lm": 1.30, "multidigits": 2.0, "many_heads": 4.0}
"""What the suite aims at, as a multiple of the uniform step."""


def gramian_costs(device: torch.device) -> pd.DataFrame:
    """One row per problem and method: milliseconds of a step, its ratio to uniform's with quartiles, how it was made."""
    return pd.concat([_problem_costs(name, rounds, device) for name, rounds in ROUNDS.items()], ignore_index=True)


def methods() -> list[str]:
    """Those that ask for the Gramian, variants left out."""
    return [name for name, kind in METHODS.items() if Needs.GRAMIAN in kind.needs and kind.variant_of is None]


def _problem_costs(name: str, rounds: int, device: torch.device) -> pd.DataFrame:
    problem = ManyHeads() if name == ManyHeads.name else problem_class(name)()
    data = problem.data(0, problem.training)
    ways = {"uniform": ""}
    steps: dict[str, Callable[[], object]] = {"uniform": under_weighter(problem, data, device, "uniform", {}).train_step}
    for method in methods():
        loop = under_weighter(problem, data, device, method, {})
        steps[method] = loop.train_step
        assert loop.task_gradients is not None
        ways[method] = loop.task_gradients.way.replace("_", " ")
    for label, update in updates(problem.num_tasks).items():
        steps[label] = step_of(update, problem, data, _shared(problem, data, device), device)
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    for number in tqdm(range(WARMUP_ROUNDS + rounds), desc=f"Gramian {name}", disable=not sys.stderr.isatty()):
        for label, step in steps.items():
            taken = block_seconds(step, device)
            if number >= WARMUP_ROUNDS:
                seconds[label].append(taken)
    return pd.DataFrame([_row(problem, label, seconds, ways.get(label, "its own")) for label in steps])


def _shared(problem: Problem, data: Data, device: torch.device) -> Callable[[nn.Module], Sequence[Tensor]]:
    """The parameters that all tasks share, as the harness finds them."""

    def found(model: nn.Module) -> Sequence[Tensor]:
        first = (to_device(data.train_batch(step), device) for step in count())
        return TaskGradients(problem, model, first, "all", device).shared

    return found


def _row(problem: Problem, label: str, seconds: Mapping[str, list[float]], way: str) -> dict[str, Any]:
    low, middle, high = np.quantile(np.array(seconds[label]) / np.array(seconds["uniform"]), [0.25, 0.5, 0.75])
    return {
        "problem": problem.name,
        "tasks": problem.num_tasks,
        "method": label,
        "gradients": way,
        "ms per step": round(1e3 * float(np.median(seconds[label])), 3),
        "uniform = 1": round(float(middle), 3),
        "quartiles": f"{low:.3f} to {high:.3f}",
        "allowed": ALLOWED[problem.name] if label in METHODS and label != "uniform" else math.nan,
    }
