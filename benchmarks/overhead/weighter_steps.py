"""The weights alone: CoBa's must not grow dear with the number of tasks or of steps, those on a Gramian not with tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from weighting import Observation, Weighter, create
from weighting.replaying import go_on

TASKS = (2, 5, 50, 500)
STEPS = (1_000, 100_000)
MEASURED = 300
REAL_UPDATES = 384
GRAMIAN_TASKS = (5, 50)
GRAMIAN_MEASURED = 60


def weight_costs(device: torch.device) -> pd.DataFrame:
    """One row per method and number of tasks: milliseconds of an update with its weights, after so many steps."""
    rows = []
    for name in ("coba", "coba_mftcoder"):
        for num_tasks in TASKS:
            row: dict[str, Any] = {"weighter": name, "tasks": num_tasks}
            for steps in STEPS:
                row[f"ms after {steps:,} steps"] = round(1e3 * _measure(name, num_tasks, steps, device), 3)
            rows.append(row)
    return pd.DataFrame(rows)


def gramian_weight_costs(names: Sequence[str], device: torch.device) -> pd.DataFrame:
    """One row per method: milliseconds of an update with its weights, for few and for many tasks."""
    rows = []
    for name in names:
        row: dict[str, Any] = {"weighter": name}
        for num_tasks in GRAMIAN_TASKS:
            row[f"ms for {num_tasks} tasks"] = round(1e3 * _measure_gramian(name, num_tasks, device), 3)
        rows.append(row)
    return pd.DataFrame(rows)


def _measure_gramian(name: str, num_tasks: int, device: torch.device) -> float:
    """Median seconds, over gradients of 200 numbers that conflict in part and whose norms differ tenfold."""
    weighter = create(name, num_tasks).to(device)
    draw = torch.Generator().manual_seed(num_tasks)
    seconds = []
    for _ in range(GRAMIAN_MEASURED):
        rows = torch.randn(num_tasks, 200, generator=draw) + 0.3 * torch.randn(200, generator=draw)
        rows = (rows * torch.logspace(-0.5, 0.5, num_tasks).unsqueeze(-1)).to(device)
        seconds.append(_seconds(weighter, Observation(losses=rows[:, 0].abs() + 0.1, gramian=rows @ rows.mT), device))
    return float(np.median(seconds))


def _seconds(weighter: Weighter, seen: Observation, device: torch.device) -> float:
    started = time.perf_counter()
    weighter.weights(seen)
    weighter.update(seen)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _measure(name: str, num_tasks: int, steps: int, device: torch.device) -> float:
    """Median seconds of one update and one answer, with a history as long as after ``steps`` steps."""
    weighter = create(name, num_tasks, warmup=100, window=200).to(device)
    noise = torch.rand(64, num_tasks, device=device) + 0.5
    weighter.start(Observation(losses=noise[0], val_losses=noise[0]))
    _lengthen(weighter, steps, noise)
    seconds = []
    for number in range(MEASURED):
        seen = Observation(losses=noise[number % 64], val_losses=noise[(number * 7) % 64])
        seconds.append(_seconds(weighter, seen, device))
    return float(np.median(seconds))


def _lengthen(weighter: Weighter, steps: int, noise: torch.Tensor) -> None:
    """Fill the windows by real updates, and the one series that grows at once: 100,000 updates would take a minute."""
    go_on(weighter, [Observation(losses=row, val_losses=row) for row in noise.repeat(REAL_UPDATES // len(noise), 1)])
    state = weighter.state_dict()
    state["clock"] = state["clock"] + (steps - REAL_UPDATES)
    state["largest_slopes.room"] = noise[:, 0].double().repeat((steps + MEASURED) // len(noise) + 1)
    weighter.load_state_dict(state)
