"""The gradients of all task losses by shared parameters: their inner products, and the update that weights make of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from weighting.gradients import trainable
from weighting.observation import Numbers, as_tensor, visible


class Jacobian:
    """The gradient of each UNWEIGHTED task loss by some parameters, added up over micro-batches.

    num_tasks     K >= 1
    parameters    those of which gradients are taken, or the module; frozen ones do not count
    replica_dims  how many leading dimensions of losses and parameters are replicas

    Holds a gradient, in the parameter's dtype, for each task that reaches a parameter. Raises ValueError where no parameter
    is trained.
    """

    def __init__(self, num_tasks: int, parameters: nn.Module | Iterable[Tensor], *, replica_dims: int = 0) -> None:
        self.num_tasks, self.replica_dims = num_tasks, replica_dims
        self.parameters = trainable(parameters)
        self.rows: list[dict[int, Tensor]] = [{} for _ in self.parameters]
        """For each parameter, by task, the gradient of a loss that reaches it."""
        self._stacks: list[Tensor | None] = [None] * len(self.parameters)
        """The rows of a parameter as one tensor ``(tasks that reach it, *shape)``, of which they are then views."""

    @property
    def num_bytes(self) -> int:
        """What is held."""
        return sum(row.numel() * row.element_size() for rows in self.rows for row in rows.values())

    def add(self, losses: Tensor | Sequence[Tensor], *, present: Tensor | None = None) -> None:
        """Add a micro-batch's gradients by one backward pass per task.

        losses   ``(*batch_shape, K)`` with graph, which is kept, or a sequence of K losses; each its share of the step's
        present  bool ``(*batch_shape, K)``: tasks that are seen to be absent take no pass; None: all are there
        """
        seen = None if present is None else visible(present.reshape(-1, self.num_tasks).any(0))
        for task, loss in enumerate(_starts(losses)):
            if seen is None or seen[task]:
                self._add(task, loss, retain_graph=True)

    def add_task(self, task: int, loss: Tensor) -> None:
        """Add the gradients of one task's loss, ``(*batch_shape)``; its graph is used up."""
        self._add(task, loss, retain_graph=False)

    def add_rows(self, place: int, found: Tensor) -> None:
        """Add the gradients of all tasks by parameter number ``place``, ``(K, *shape)``, which are then the Jacobian's."""
        if self.rows[place]:
            found = self._stacked(place) + found
        self._stacks[place], self.rows[place] = found, dict(enumerate(found.unbind()))

    def clear(self) -> None:
        """Forget everything that was added."""
        self.rows = [{} for _ in self.parameters]
        self._stacks = [None] * len(self.parameters)

    def take(self) -> Jacobian:
        """What was added, as another Jacobian; nothing of it is left here, and nothing is copied."""
        taken = copy.copy(self)
        self.clear()
        return taken

    def gramian(self, *, among: Iterable[Tensor] | None = None) -> Tensor:
        """Inner products of the gradients, ``(*batch_shape, K, K)``, in float64; within a parameter at least in float32.

        among  the parameters that count; None: all
        """
        return self.cross_gramian(self, among=among)

    @torch.no_grad()
    def cross_gramian(self, others: Jacobian, *, among: Iterable[Tensor] | None = None) -> Tensor:
        """Inner products of these gradients, the rows, with others, the columns, as ``gramian``.

        others  gradients of as many tasks by these parameters, or by some of them
        among   the parameters that count; None: all
        """
        shape = (*self.parameters[0].shape[: self.replica_dims], self.num_tasks, self.num_tasks)
        found = wide(torch.zeros(shape, device=self.parameters[0].device))
        elsewhere = {id(others.parameters[place]): place for place in others._places(among)}
        for place in self._places(among):
            if (other := elsewhere.get(id(self.parameters[place]))) is None:
                continue
            part = wide(self._numbers(place) @ others._numbers(other).mT)
            rows, columns = list(self.rows[place]), list(others.rows[other])
            if rows == columns == list(range(self.num_tasks)):
                found += part
            else:
                found[..., torch.tensor(rows).unsqueeze(-1), torch.tensor(columns)] += part
        return found

    @torch.no_grad()
    def norms(self, *, among: Iterable[Tensor] | None = None) -> Tensor:
        """Norms of the gradients, ``(*batch_shape, K)``, in float64; ``among`` as in ``gramian``."""
        shape = (*self.parameters[0].shape[: self.replica_dims], self.num_tasks)
        found = wide(torch.zeros(shape, device=self.parameters[0].device))
        for place in self._places(among):
            for task, row in self.rows[place].items():
                found[..., task] += wide(torch.linalg.vector_norm(row.flatten(self.replica_dims), dim=-1)).square()
        return found.sqrt()

    @torch.no_grad()
    def apply(self, weights: Tensor, *, among: Iterable[Tensor] | None = None) -> None:
        """Add the weighted sum of the gradients to each parameter's ``.grad``, as a backward pass of the total would.

        weights  ``(*batch_shape, K)``; of weight 0, as for an absent task, nothing is added, whatever the gradient
        among    the parameters that count; None: all
        """
        seen = visible(weights)
        some_zero = seen is None or 0 in seen
        for place in self._places(among):
            parameter, numbers = self.parameters[place], self._numbers(place)
            factors = weights[..., list(self.rows[place])].unsqueeze(-2).to(numbers)
            if some_zero:
                numbers = torch.where(factors.mT != 0, numbers, 0.0)
            gradient = (factors @ numbers).reshape(parameter.shape).to(parameter.dtype)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _add(self, task: int, loss: Tensor | GradientEdge, *, retain_graph: bool) -> None:
        if isinstance(loss, Tensor) and not loss.requires_grad:
            return
        one = torch.ones_like(loss) if isinstance(loss, Tensor) else self._one
        found = torch.autograd.grad(loss, self.parameters, one, retain_graph=retain_graph, allow_unused=True)
        for place, gradient in enumerate(found):
            if gradient is not None:
                rows = self.rows[place]
                rows[task] = rows[task] + gradient if task in rows else gradient
                self._stacks[place] = None

    def _places(self, among: Iterable[Tensor] | None) -> list[int]:
        """Those of the parameters that some loss has reached."""
        chosen = None if among is None else {id(parameter) for parameter in among}
        pairs = enumerate(zip(self.parameters, self.rows, strict=True))
        return [place for place, (own, rows) in pairs if rows and (chosen is None or id(own) in chosen)]

    def _numbers(self, place: int) -> Tensor:
        """The rows of a parameter in the order of tasks, ``(*batch_shape, tasks, numbers)``, at least float32."""
        numbers = self._stacked(place).flatten(1 + self.replica_dims).movedim(0, self.replica_dims)
        return numbers.to(torch.promote_types(numbers.dtype, torch.float32))

    def _stacked(self, place: int) -> Tensor:
        stack = self._stacks[place]
        if stack is None:
            # A task that the first micro-batch lacks has come last.
            rows = dict(sorted(self.rows[place].items()))
            self._stacks[place] = stack = torch.stack(list(rows.values()))
            # What the stack holds is not held twice.
            self.rows[place] = dict(zip(rows, stack.unbind(), strict=True))
        return stack

    @property
    def _one(self) -> Tensor:
        return self.parameters[0].new_ones(())


def _starts(losses: Tensor | Sequence[Tensor]) -> Sequence[Tensor | GradientEdge]:
    """Where the backward pass of each task begins.

    Of a stack of K numbers, behind it: a pass from its elements would take zeros through the heads of all other tasks.
    """
    if not isinstance(losses, Tensor):
        return losses
    node, plain = losses.grad_fn, losses.unbind(-1)
    if losses.dim() != 1 or node is None or node.name() != "StackBackward0":
        return plain
    return [
        loss.detach() if function is None else GradientEdge(function, number)
        for loss, (function, number) in zip(plain, node.next_functions, strict=True)
    ]


def wide(values: Tensor) -> Tensor:
    """In float64, or in float32 on devices without it."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def jacobian(
    losses: Tensor | Sequence[Tensor],
    parameters: nn.Module | Iterable[Tensor],
    *,
    counts: Numbers | None = None,
    replica_dims: int = 0,
) -> Jacobian:
    """The gradients of K losses by the shared parameters, for ``Jacobian.gramian`` and ``apply``.

    losses        ``(*batch_shape, K)`` with graph, which is kept, or a sequence of K losses
    parameters    those that all tasks share, or their module; frozen ones do not count
    counts        as in ``Observation``; a task with a count of 0 takes no pass; None: all are present
    replica_dims  how many leading dimensions of losses and parameters are replicas

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
    found.add(losses, present=present)
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
