"""The step of each weighter over a hand-written PyTorch step with equal weights."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.catalog import problem_class
from benchmarks.contract import Data, Problem, to_device
from benchmarks.harness.loop import Loop
from benchmarks.harness.optimizer import make_optimizer
from weighting import RunFacts, create, method

PROBLEMS = {"multidigits": 200, "code_lm": 40}
"""Problem -> rounds. In each round every candidate trains one block."""

BLOCK_STEPS = 5
WARMUP_ROUNDS = 5

CANDIDATES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "uniform": ("uniform", {}),
    "random": ("random", {}),
    "dwa": ("dwa", {}),
    "uncertainty": ("uncertainty", {}),
    "gls": ("gls", {}),
    "scale_invariant": ("scale_invariant", {}),
    "imtl_l": ("imtl_l", {}),
    "lbtw": ("lbtw", {}),
    "gradnorm": ("gradnorm", {}),
    "famo": ("famo", {}),
    "famo[next_batch]": ("famo", {"lookahead": "next_batch"}),
    "coba": ("coba", {}),
    "coba_mftcoder": ("coba_mftcoder", {}),
}

ALLOWED = {
    ("multidigits", "uniform"): 1.03,
    ("code_lm", "uniform"): 1.03,
    ("multidigits", "dwa"): 1.05,
    ("code_lm", "dwa"): 1.05,
    ("multidigits", "uncertainty"): 1.05,
    ("code_lm", "uncertainty"): 1.05,
    ("code_lm", "gradnorm"): 1.15,
    ("multidigits", "famo"): 1.40,
    ("code_lm", "famo"): 1.40,
    ("multidigits", "famo[next_batch]"): 1.05,
    ("code_lm", "famo[next_batch]"): 1.05,
    ("multidigits", "coba"): 1.40,
    ("code_lm", "coba"): 1.40,
    ("multidigits", "coba_mftcoder"): 1.40,
    ("code_lm", "coba_mftcoder"): 1.40,
}
"""What the suite aims at, as a multiple of the hand-written step."""


def step_costs(device: torch.device) -> pd.DataFrame:
    """One row per problem and weighter: milliseconds of a step, its ratio to the hand-written step with quartiles."""
    return pd.concat([_problem_costs(name, rounds, device) for name, rounds in PROBLEMS.items()], ignore_index=True)


def _problem_costs(name: str, rounds: int, device: torch.device) -> pd.DataFrame:
    kind = problem_class(name)
    problem = kind()
    data = problem.data(0, kind.training)
    steps: dict[str, Callable[[], object]] = {"hand-written": _hand_written(problem, data, device)}
    steps |= {label: under_weighter(problem, data, device, *candidate).train_step for label, candidate in CANDIDATES.items()}
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    for number in tqdm(range(WARMUP_ROUNDS + rounds), desc=f"cost {name}", disable=not sys.stderr.isatty()):
        for label, step in steps.items():
            taken = block_seconds(step, device)
            if number >= WARMUP_ROUNDS:
                seconds[label].append(taken)
    return pd.DataFrame([_row(name, label, seconds) for label in steps])


def block_seconds(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of a step, over one block."""
    _synchronize(device)
    started = time.perf_counter()
    for _ in range(BLOCK_STEPS):
        step()
    _synchronize(device)
    return (time.perf_counter() - started) / BLOCK_STEPS


def _row(problem: str, label: str, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    ratios = np.array(seconds[label]) / np.array(seconds["hand-written"])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "problem": problem,
        "weighter": label,
        "ms per step": round(1e3 * float(np.median(seconds[label])), 3),
        "ratio": round(float(middle), 3),
        "quartiles": f"{low:.3f} to {high:.3f}",
        "allowed": ALLOWED.get((problem, label), math.nan),
    }


def _hand_written(problem: Problem, data: Data, device: torch.device) -> Callable[[], object]:
    """What a user writes without any library."""
    model = problem.model(0).to(device)
    optimizer = make_optimizer(model, problem.training)
    step = 0

    def train() -> None:
        nonlocal step
        batch = to_device(data.train_batch(step), device)
        loss = problem.losses(model, batch).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1

    return train


def under_weighter(
    problem: Problem, data: Data, device: torch.device, name: str, hyperparameters: Mapping[str, Any]
) -> Loop:
    """A run before its first step."""
    facts = RunFacts(problem.training.steps, data.steps_per_epoch, data.num_validation_batches, seed=0)
    weighter = create(name, problem.num_tasks, **{**method(name).defaults_for(facts), **hyperparameters})
    loop = Loop(problem, data, weighter, problem.training, 0, device=device)
    loop.begin()
    return loop


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
