"""Loops over the tiny problem, for tests of the harness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tiny_problem import Tiny
from torch import Tensor, nn

import weighting
from benchmarks.contract import Batch, Problem, Training
from benchmarks.harness.loop import Loop
from weighting import Weighter

CPU = torch.device("cpu")


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform": ("uniform", {}),
    "static": ("static", {"weights": [1.0, 0.5, 0.0]}),
    "random": ("random", {"seed": 3}),
    "gradnorm": ("gradnorm", {}),
    "dwa": ("dwa", {"window": 4}),
    "uncertainty": ("uncertainty", {}),
    "famo": ("famo", {}),
    "famo next_batch": ("famo", {"lookahead": "next_batch"}),
    "coba": ("coba", {"warmup": 4, "window": 8}),
    "coba update_every": ("coba", {"warmup": 4, "window": 8, "update_every": 3}),
    "coba_mftcoder": ("coba_mftcoder", {"warmup": 4, "window": 8}),
    "coba_mftcoder update_every": ("coba_mftcoder", {"warmup": 6, "window": 8, "update_every": 2}),
}


def method(name: str, num_tasks: int = 3) -> Weighter:
    listed, hyperparameters = METHODS[name]
    return weighting.create(listed, num_tasks, **hyperparameters)


def settings(**changes: Any) -> Training:
    return Training.model_validate({**Tiny.training.model_dump(), **changes})


def loop_of(
    weighter: Weighter, training: Training | None = None, problem: Problem | None = None, seed: int = 0, **more: Any
) -> Loop:
    problem = problem or Tiny()
    training = training or problem.training
    return Loop(problem, problem.data(seed, training), weighter, training, seed, device=CPU, **more)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def logged(loop: Loop, column: str) -> dict[int, list[float]]:
    """Step -> the column's numbers, one per task, where they were measured."""
    table = loop.trajectory.frame().dropna(subset=[column])
    return {int(step): table.loc[table["step"] == step, column].tolist() for step in table["step"].unique()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].isnan(), other[name].isnan()) and torch.equal(one[name].nan_to_num(), other[name].nan_to_num())
        for name in one
    )


def stop_after(blocks: int) -> Callable[[], bool]:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= blocks

    return should_stop


TRAINING = {"steps": 40, "lr": 0.05, "log_every": 3, "evaluate_every": 7, "lr_schedule": "cosine"}


def raw(problem: Problem, model: nn.Module, batch: Batch) -> Tensor:
    return problem.losses(model, batch).detach()
