"""Where the gradients of tasks are compared: the layer that a problem, or a suite, names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from benchmarks.contract import Problem
from benchmarks.errors import unknown
from weighting.gradients import trainable


def shared_layers(problem: Problem, model: nn.Module, chosen: Sequence[str] | None) -> list[nn.Module]:
    """The modules at which gradient norms are measured: those named, else the problem's. Raises ValueError."""
    if chosen is None:
        found = problem.shared_layer(model)
        return [found] if isinstance(found, nn.Module) else list(found)
    modules = dict(model.named_modules())
    for name in chosen:
        if name not in modules:
            raise ValueError(unknown("module", name, [known for known in modules if known]))
    return [modules[name] for name in chosen]


def trained_parameters(problem: Problem, layers: Sequence[nn.Module]) -> list[Tensor]:
    """The parameters of the shared layer that are trained. Raises ValueError if there are none."""
    try:
        return trainable(parameter for layer in layers for parameter in layer.parameters())
    except ValueError as error:
        raise ValueError(f"{problem.name}: expected trained parameters in the shared layer, found none") from error
