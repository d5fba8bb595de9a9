"""The gradients of all tasks from one backward pass, where every row of a batch belongs to one task.

The gradient that arrives at the output of a module in the backward pass of the plain sum of all losses is, row for row, that
of the row's own task. So the modules' inputs and these gradients hold the gradients of all tasks by all parameters: for a
linear layer they are one batched product, and no product of the backward pass is made twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from weighting.jacobians import Jacobian


class RowBlocks:
    """Watches the modules of a model that own trained parameters.

    Right where the rows (leading dimension) of what goes in and out of these modules are K equal, consecutive groups, one
    for each task. Whoever uses it has to see that it is: ``TaskGradients`` compares it with a backward pass per task.
    """

    def __init__(self, model: nn.Module, jacobian: Jacobian) -> None:
        self.jacobian = jacobian
        self.place = {id(parameter): place for place, parameter in enumerate(jacobian.parameters)}
        self._armed = False
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        for module in model.modules():
            if any(id(parameter) in self.place for parameter in module.parameters(recurse=False)):
                module.register_forward_hook(self._remember)

    def arm(self) -> None:
        """Watch the coming forward pass."""
        self._armed, self._calls = True, []

    def add(self, losses: Tensor) -> None:
        """Add the gradients of the forward pass that was watched. losses: ``(K,)`` with graph, which is used up.

        Raises RuntimeError or ValueError where a module takes or gives something else than one tensor of K groups of rows.
        """
        calls, self._calls, self._armed = self._calls, [], False
        arrived = torch.autograd.grad(losses.sum(), [output for _, _, output in calls], allow_unused=True)
        with torch.no_grad():
            for (module, given, _), gradient in zip(calls, arrived, strict=True):
                if gradient is not None:
                    self._add_module(module, self._groups(given), self._groups(gradient))

    def _remember(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if not self._armed:
            return
        if len(given) != 1 or not isinstance(given[0], Tensor) or not isinstance(output, Tensor):
            raise ValueError(f"expected a tensor in and out of {type(module).__name__}, found {len(given)} things in")
        if output.requires_grad:
            self._calls.append((module, given[0].detach(), output))

    def _groups(self, rows: Tensor) -> Tensor:
        """``(K, rows of a task, ...)``."""
        return rows.reshape(self.jacobian.num_tasks, -1, *rows.shape[1:])

    def _add_module(self, module: nn.Module, given: Tensor, gradient: Tensor) -> None:
        found: dict[str, Tensor] = {}
        if type(module) is nn.Linear:
            found = _linear(given.flatten(1, -2), gradient.flatten(1, -2))
        elif type(module) is nn.Embedding and not module.sparse and not module.scale_grad_by_freq:
            found = _embedding(module, given.flatten(1), gradient.flatten(1, -2))
        else:
            found = self._elsewhere(module, given, gradient)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in self.place and name in found:
                self.jacobian.add_rows(self.place[id(parameter)], found[name])

    def _elsewhere(self, module: nn.Module, given: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """Of any module: its own vector-Jacobian product, for all groups at once."""
        own = {name: value.detach() for name, value in module.named_parameters(recurse=False) if id(value) in self.place}

        def of_group(rows: Tensor, arrived: Tensor) -> dict[str, Tensor]:
            back = vjp(lambda parameters: functional_call(module, parameters, (rows,)), own)[1]
            found: dict[str, Tensor] = back(arrived)[0]
            return found

        found: dict[str, Tensor] = vmap(of_group)(given, gradient)
        return found


def _linear(given: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """given: ``(K, n, in)``, gradient: ``(K, n, out)``."""
    return {"weight": torch.bmm(gradient.mT, given), "bias": gradient.sum(1)}


def _embedding(module: nn.Embedding, given: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """given: ``(K, n)`` places, gradient: ``(K, n, width)``."""
    tasks = len(given)
    kept = gradient if module.padding_idx is None else gradient.masked_fill((given == module.padding_idx).unsqueeze(-1), 0.0)
    places = given + module.num_embeddings * torch.arange(tasks, device=given.device).unsqueeze(-1)
    found = gradient.new_zeros(tasks * module.num_embeddings, module.embedding_dim)
    found.index_add_(0, places.flatten(), kept.flatten(0, 1))
    return {"weight": found.reshape(tasks, -1, found.shape[-1])}
