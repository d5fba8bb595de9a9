"""Gradients of single tasks: what methods like GradNorm ask about, for anybody's training loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def gradient_norms(
    losses: Tensor | Sequence[Tensor], parameters: nn.Module | Iterable[Tensor], *, replica_dims: int = 0
) -> Tensor:
    """Norm of the gradient of each UNWEIGHTED task loss, ``(*batch_shape, K)``, for ``Observation.grad_norms``.

    losses        ``(*batch_shape, K)`` with graph, which is kept, or a sequence of K losses
    parameters    those of the shared layer, or the layer itself; frozen ones do not count
    replica_dims  how many leading dimensions of losses and parameters are replicas

    A task whose loss does not reach the parameters has the norm 0. One partial backward pass per task. Raises ValueError
    where no parameter is trained.
    """
    found = task_gradients(losses, trainable(parameters))
    rows = [torch.cat([in_one_row(part, replica_dims) for part in each], dim=-1) for each in found]
    return torch.stack([row.norm(dim=-1) for row in rows], dim=-1)


def in_one_row(values: Tensor, leading: int) -> Tensor:
    """All that comes after the leading dimensions in one; a parameter may be a single number, without any more of them."""
    return values.reshape(*values.shape[:leading], -1)


def trainable(parameters: nn.Module | Iterable[Tensor]) -> list[Tensor]:
    """The parameters that are trained, each once. Raises ValueError where there is none."""
    given = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    found = list({id(parameter): parameter for parameter in given if parameter.requires_grad}.values())
    if not found:
        raise ValueError("expected at least one trained parameter to take gradients of, found none")
    return found


def task_gradients(losses: Tensor | Sequence[Tensor], parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """For each task, the gradient of its loss (summed over replicas) by each parameter; zeros where there is none.

    losses  ``(*batch_shape, K)`` with graph, which is kept, or a sequence of K losses
    """
    gradients = []
    for loss in losses.unbind(-1) if isinstance(losses, Tensor) else losses:
        if not loss.requires_grad:
            gradients.append([torch.zeros_like(parameter) for parameter in parameters])
            continue
        found = torch.autograd.grad(loss.sum(), parameters, retain_graph=True, allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        gradients.append([torch.zeros_like(p) if gradient is None else gradient for p, gradient in pairs])
    return gradients
