"""The gradients of all tasks at one linear layer, left behind by the step's own backward pass.

Where every row of a batch belongs to one task, the gradient that arrives at the layer's output in the backward pass of the
weighted total is, row for row, that of the row's own task, times a factor that is known. So one product per task gives what
would take a backward pass per task otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Arrival = Callable[[Tensor, Tensor], None]
"""Takes what went into the layer and the gradient at its output."""


class _Call:
    """One forward pass of the layer."""

    def __init__(self, given: Tensor) -> None:
        self.given = given
        self.then: Arrival | None = None

    def arrived(self, gradient: Tensor) -> None:
        # Nothing stands there in the passes per task that may come before the total's.
        then, self.then = self.then, None
        if then is not None:
            then(self.given, gradient)


class RowGradients:
    """Watches a layer between ``watch`` and ``forget``, and takes the gradients of the backward passes it is told of.

    layer       a plain linear layer of its own, as ``alone`` finds it
    parameters  those of the layer that count, in the order of their numbers
    """

    def __init__(self, layer: nn.Module, parameters: Sequence[Tensor]) -> None:
        self.layer, self.parameters = layer, list(parameters)
        self.rows: Tensor | None = None
        """``(K, numbers)`` taken since ``watch``; None: nothing."""
        self._calls: list[_Call] = []
        self._handles: list[RemovableHandle] = []

    def watch(self) -> None:
        """A step begins."""
        self.forget()
        # The second: a pass that activation checkpointing makes again in a backward pass is not one to follow.
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        self._handles = [
            self.layer.register_forward_hook(self._remember),
            weight.register_post_accumulate_grad_hook(lambda _: self._calls.clear()),  # type: ignore[no-untyped-call]
        ]

    def forget(self) -> None:
        """A step has ended: nothing of it is kept, and the layer is as it was."""
        for handle in self._handles:
            handle.remove()
        self.rows, self._handles, self._calls = None, [], []

    def follow(self, total: Tensor, factors: Tensor, row_tasks: Tensor) -> bool:
        """Take the gradients of a micro-batch from the backward pass that is to come; whether that can be done.

        total      scalar that ``backward`` will be called on, by way of any factors
        factors    ``(K,)`` by which each task's own loss stands in it
        row_tasks  ``(rows,)`` the number of each row's task

        It cannot where the layer was not passed exactly once, with these rows, or a task that is there has the factor 0.
        """
        calls, self._calls = self._calls, []
        if not total.requires_grad or len(calls) != 1 or row_tasks.dim() != 1 or calls[0].given.shape[0] != len(row_tasks):
            return False
        places = [(row_tasks == task).nonzero().squeeze(-1) for task in range(len(factors))]
        if any(len(own) > 0 and factor == 0 for own, factor in zip(places, factors.tolist(), strict=True)):
            return False
        (call,) = calls

        def begins(gradient: Tensor) -> None:
            # What stands between the total and the backward pass, such as a gradient scaler's factor, arrives here.
            whole = factors * gradient.detach().to(factors)
            call.then = lambda given, arrived: self._take([self._product(given[own], arrived[own]) for own in places], whole)

        total.register_hook(begins)  # type: ignore[no-untyped-call]
        return True

    def _remember(self, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.compiler.is_compiling() or not given or not output.requires_grad:
            return
        call = _Call(given[0].detach())
        output.register_hook(call.arrived)  # type: ignore[no-untyped-call]
        self._calls.append(call)

    @torch.no_grad()
    def _product(self, given: Tensor, gradient: Tensor) -> Tensor:
        """A task's gradient ``(numbers,)``, of what went in ``(rows, ..., in)`` and arrived ``(rows, ..., out)``."""
        inputs = given.flatten(0, -2).to(gradient.dtype)
        outputs = gradient.detach().flatten(0, -2)
        parts = []
        for parameter in self.parameters:
            if parameter is not self.layer.weight:
                parts.append(outputs.sum(0))
            elif isinstance(self.layer, nn.Linear):
                parts.append((outputs.mT @ inputs).flatten())
            else:
                parts.append((inputs.mT @ outputs).flatten())
        return torch.cat(parts)

    def _take(self, found: list[Tensor], factors: Tensor) -> None:
        rows = torch.stack(found)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # A task of no row has the gradient 0, whatever its factor.
        rows = rows / torch.where(factors == 0, 1.0, factors).to(rows).unsqueeze(-1)
        self.rows = rows if self.rows is None else self.rows + rows


def alone(parameters: Iterable[Tensor], model: nn.Module) -> nn.Module | None:
    """The plain linear layer of a model whose trained parameters these are, or some of them, and which nothing else uses.

    None where there is no such layer.
    """
    asked = {id(parameter) for parameter in parameters}
    owners = [module for module in model.modules() if asked & {id(p) for p in module.parameters(recurse=False)}]
    if len(owners) != 1:
        return None
    (layer,) = owners
    own = {id(parameter): parameter for parameter in layer.parameters()}
    plain = type(layer).__name__ in ("Linear", "Conv1D") and next(layer.children(), None) is None
    alike = all(parameter.requires_grad for parameter in own.values())
    return layer if plain and alike and asked <= set(own) else None
