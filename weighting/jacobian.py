"""The gradients of all task losses by the shared parameters: their inner products, and the update that weights make of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from weighting.gradients import trainable
from weighting.observation import Numbers, as_tensor, visible


class Jacobian:
    """The gradient of each UNWEIGHTED task loss by some parameters, added up over micro-batches.

    num_tasks     K >= 1
    parameters    those of which gradients are taken, or the module; frozen ones do not count
    replica_dims  how many leading dimensions of losses and parameters are replicas

    Holds K numbers for each parameter, in the parameter's dtype. Raises ValueError where no parameter is trained.
    """

    def __init__(self, num_tasks: int, parameters: nn.Module | Iterable[Tensor], *, replica_dims: int = 0) -> None:
        self.num_tasks, self.replica_dims = num_tasks, replica_dims
        self.parameters = trainable(parameters)
        self.blocks: list[Tensor | None] = [None] * len(self.parameters)
        """For each parameter the gradients of all tasks, ``(K, *shape)``; None: no loss has reached it."""

    def add(self, losses: Tensor | Sequence[Tensor], *, present: Tensor | None = None, at_once: bool = False) -> None:
        """Add a micro-batch's gradients by one backward pass per task.

        losses   ``(*batch_shape, K)`` with graph, which is kept, or a sequence of K losses; each its share of the step's mean
        present  bool ``(*batch_shape, K)``: tasks that are seen to be absent take no pass; None: all are there
        at_once  one batched backward pass for all tasks (``is_grads_batched``) instead: faster where K is large and single
                 operations are small; needs a batching rule for every operation of the model
        """
        if at_once:
            self._add_at_once(losses if isinstance(losses, Tensor) else torch.stack(list(losses), dim=-1))
            return
        seen = None if present is None else visible(present.reshape(-1, self.num_tasks).any(0))
        for task, loss in enumerate(losses.unbind(-1) if isinstance(losses, Tensor) else losses):
            if seen is None or seen[task]:
                self.add_task(task, loss, retain_graph=True)

    def add_task(self, task: int, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of one task's loss, ``(*batch_shape)`` with graph."""
        if not loss.requires_grad:
            return
        found = torch.autograd.grad(loss.sum(), self.parameters, retain_graph=retain_graph, allow_unused=True)
        for place, gradient in enumerate(found):
            if gradient is not None:
                self._block(place)[task] += gradient

    def clear(self) -> None:
        """Forget everything that was added."""
        self.blocks = [None] * len(self.parameters)

    @torch.no_grad()
    def gramian(self, *, among: Iterable[Tensor] | None = None) -> Tensor:
        """Inner products of the gradients, ``(*batch_shape, K, K)``, at least float32 within a parameter, float64 over them.

        among  the parameters that count; None: all
        """
        found: Tensor | None = None
        for _, block in self._chosen(among):
            rows = self._rows(block)
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            part = wide(rows @ rows.mT)
            found = part if found is None else found + part
        return self._none() if found is None else found

    def _none(self) -> Tensor:
        first = self.parameters[0]
        shape = (*first.shape[: self.replica_dims], self.num_tasks, self.num_tasks)
        return wide(torch.zeros(shape, device=first.device))

    @torch.no_grad()
    def norms(self, *, among: Iterable[Tensor] | None = None) -> Tensor:
        """Norms of the gradients, ``(*batch_shape, K)``, in float64; ``among`` as in ``gramian``."""
        found = [wide(torch.linalg.vector_norm(self._rows(block), dim=-1)).square() for _, block in self._chosen(among)]
        return self._none()[..., 0] if not found else torch.stack(found).sum(0).sqrt()

    @torch.no_grad()
    def apply(self, weights: Tensor, *, among: Iterable[Tensor] | None = None) -> None:
        """Add the weighted sum of the gradients to each parameter's ``.grad``, as a backward pass of the total would.

        weights  ``(*batch_shape, K)``; of weight 0, as for an absent task, nothing is added, whatever the gradient
        among    the parameters that count; None: all
        """
        factors = weights.unsqueeze(-2)
        numbers = visible(weights)
        some_zero = numbers is None or 0 in numbers
        for parameter, block in self._chosen(among):
            rows = self._rows(block)
            rows = torch.where(factors.mT != 0, rows, 0.0) if some_zero else rows
            dtype = torch.promote_types(rows.dtype, torch.float32)
            gradient = (factors.to(rows.device, dtype) @ rows.to(dtype)).reshape(parameter.shape).to(parameter.dtype)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _chosen(self, among: Iterable[Tensor] | None) -> list[tuple[Tensor, Tensor]]:
        """The parameters that some loss has reached, with their gradients."""
        chosen = None if among is None else {id(parameter) for parameter in among}
        pairs = zip(self.parameters, self.blocks, strict=True)
        return [(own, block) for own, block in pairs if block is not None and (chosen is None or id(own) in chosen)]

    def _rows(self, block: Tensor) -> Tensor:
        """``(*batch_shape, K, numbers)``."""
        return block.flatten(1 + self.replica_dims).movedim(0, self.replica_dims)

    def _block(self, place: int) -> Tensor:
        block = self.blocks[place]
        if block is None:
            parameter = self.parameters[place]
            self.blocks[place] = block = parameter.new_zeros(self.num_tasks, *parameter.shape)
        return block

    def _add_at_once(self, losses: Tensor) -> None:
        if not losses.requires_grad:
            return
        each = torch.eye(self.num_tasks, dtype=losses.dtype, device=losses.device)
        each = each.reshape(self.num_tasks, *[1] * (losses.dim() - 1), self.num_tasks).expand(self.num_tasks, *losses.shape)
        found = torch.autograd.grad(
            losses, self.parameters, each, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        for place, gradient in enumerate(found):
            if gradient is not None:
                known = self.blocks[place]
                self.blocks[place] = gradient if known is None else known + gradient


def wide(values: Tensor) -> Tensor:
    """In float64, or in float32 on devices without it."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def jacobian(
    losses: Tensor | Sequence[Tensor],
    parameters: nn.Module | Iterable[Tensor],
    *,
    counts: Numbers | None = None,
    replica_dims: int = 0,
    at_once: bool = False,
) -> Jacobian:
    """The gradients of K losses by the shared parameters, for ``Jacobian.gramian`` and ``apply``.

    losses        ``(*batch_shape, K)`` with graph, which is kept, or a sequence of K losses
    parameters    those that all tasks share, or their module; frozen ones do not count
    counts        as in ``Observation``; a task with a count of 0 takes no pass; None: all are present
    replica_dims  how many leading dimensions of losses and parameters are replicas
    at_once       as in ``Jacobian.add``

    ::

        found = weighting.jacobian(losses, trunk)
        now = Observation(losses=losses, gramian=found.gramian())
        weighting.apply(weighter.weights(now), found)               # trunk's .grad
        losses.sum().backward(inputs=list(heads.parameters()))      # what belongs to single tasks, by its own loss
        optimizer.step(); optimizer.zero_grad(); weighter.update(now)

    Raises ValueError where no parameter is trained.
    """
    number = losses.shape[-1] if isinstance(losses, Tensor) else len(losses)
    found = Jacobian(number, parameters, replica_dims=replica_dims)
    present = None if counts is None else as_tensor("counts", counts) > 0
    found.add(losses, present=present, at_once=at_once)
    return found


def gramian(
    losses: Tensor | Sequence[Tensor],
    parameters: nn.Module | Iterable[Tensor],
    *,
    counts: Numbers | None = None,
    replica_dims: int = 0,
) -> Tensor:
    """Inner products ``(*batch_shape, K, K)`` of the task gradients, for ``Observation.gramian``; as ``jacobian``."""
    return jacobian(losses, parameters, counts=counts, replica_dims=replica_dims).gramian()


def apply(weights: Numbers, found: Jacobian) -> None:
    """Add the weighted sum of the gradients to the parameters' ``.grad``, as a backward pass of the total would.

    weights  ``(*batch_shape, K)``, as a method gave them; of weight 0, as for an absent task, nothing is added

    Raises ValueError on another number of tasks.
    """
    factors = as_tensor("weights", weights).detach()
    if factors.shape[-1] != found.num_tasks:
        raise ValueError(f"apply: expected weights of {found.num_tasks} tasks, found shape {tuple(factors.shape)}")
    found.apply(factors)
