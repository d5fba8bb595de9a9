"""Steps of the same methods in other libraries, where these are installed: what ours are measured beside.

TorchJD (Jacobian descent) and LibMTL. Neither is needed: ``requirements-anchors.txt`` names them and their versions.
LibMTL cannot be imported as a whole with a torchvision of today, so the files of its methods are loaded alone; its CAGrad is
written for three tasks, and is left out.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contract import Data, Problem, to_device
from benchmarks.harness.optimizer import make_optimizer

Update = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], None]
"""From losses ``(K,)`` with graph, shared parameters and those of single tasks to all their ``.grad``."""

TORCHJD = {"mgda": "MGDA", "pcgrad": "PCGrad", "cagrad": "CAGrad", "nash_mtl": "NashMTL", "upgrad": "UPGrad"}
LIBMTL = {"mgda": "MGDA", "pcgrad": "PCGrad"}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"cagrad": {"c": 0.4}}
LIBMTL_OPTIONS: Mapping[str, Mapping[str, Any]] = {"mgda": {"mgda_gn": "none"}}


def updates(num_tasks: int) -> dict[str, Update]:
    """``<method> (<library>)`` -> its update, of those that can be made here."""
    found: dict[str, Update] = {}
    if _is_installed("torchjd"):
        found |= _torchjd(num_tasks)
    if _is_installed("LibMTL"):
        found |= _libmtl(num_tasks)
    return found


def libraries() -> dict[str, str]:
    """Those that are installed, with their versions."""
    return {name: importlib.metadata.version(name) for name in ("torchjd", "LibMTL") if _is_installed(name)}


def step_of(
    update: Update, problem: Problem, data: Data, shared: Callable[[nn.Module], Sequence[Tensor]], device: torch.device
) -> Callable[[], object]:
    """A step as somebody writes it with the library. shared: from the model to the parameters that all tasks share."""
    model = problem.model(0).to(device)
    optimizer = make_optimizer(model, problem.training)
    common = list(shared(model))
    known = {id(parameter) for parameter in common}
    own = [parameter for parameter in model.parameters() if id(parameter) not in known]
    step = 0

    def train() -> None:
        nonlocal step
        losses = problem.losses(model, to_device(data.train_batch(step), device))
        optimizer.zero_grad(set_to_none=False)
        update(losses, common, own)
        optimizer.step()
        step += 1

    return train


def _torchjd(num_tasks: int) -> dict[str, Update]:
    aggregation, autojac = (importlib.import_module(f"torchjd.{part}") for part in ("aggregation", "autojac"))

    def by(aggregator: Any) -> Update:
        def update(losses: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor]) -> None:
            if own:
                losses.sum().backward(retain_graph=True, inputs=list(own))  # type: ignore[no-untyped-call]
            autojac.backward(losses, inputs=list(shared))
            for parameter in shared:
                parameter.grad = None
            autojac.jac_to_grad(list(shared), aggregator)

        return update

    found = {}
    for name, title in TORCHJD.items():
        options = {"n_tasks": num_tasks} if name == "nash_mtl" else OPTIONS.get(name, {})
        try:
            found[f"{name} (TorchJD)"] = by(getattr(aggregation, title)(**options))
        except (ImportError, AttributeError):
            # Some need a solver of their own, which is not installed.
            continue
    return found


def _libmtl(num_tasks: int) -> dict[str, Update]:
    package = _without_its_models("LibMTL")

    def by(kind: Any, options: Mapping[str, Any]) -> Update:
        method = kind()
        method.task_num, method.rep_grad, method.device = num_tasks, False, torch.device("cpu")
        shared_now: list[Tensor] = []
        method.get_share_params = lambda: shared_now
        method.zero_grad_share_params = lambda: [p.grad.zero_() for p in shared_now if p.grad is not None]

        def update(losses: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor]) -> None:
            shared_now[:] = shared
            method.device = losses.device
            # The heads get their gradients from these backward passes.
            method.backward(losses, **options)

        return update

    return {
        f"{name} (LibMTL)": by(
            getattr(importlib.import_module(f"{package}.weighting.{title}"), title), LIBMTL_OPTIONS.get(name, {})
        )
        for name, title in LIBMTL.items()
    }


def _without_its_models(name: str) -> str:
    """The package and its methods as namespaces, so that nothing else of it is imported."""
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations is not None
        (place,) = spec.submodule_search_locations
        for part, folder in ((name, place), (f"{name}.weighting", f"{place}/weighting")):
            module = types.ModuleType(part)
            module.__path__ = [folder]
            sys.modules[part] = module
    return name


def _is_installed(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None
