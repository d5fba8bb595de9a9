"""The gradients of all task losses by shared parameters: their inner products, and the update that weights make of them."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from weighting.gradients import in_one_row, trainable
from weighting.observation import Numbers, as_tensor, visible, wide

LARGEST_BLOCK = 2**20
"""Numbers of all tasks that are copied into one tensor, unless a single parameter has more."""


@dataclass(frozen=True)
class _Block:
    """The gradients of some tasks by some parameters, side by side."""

    places: tuple[int, ...]
    tasks: tuple[int, ...]
    sizes: tuple[int, ...]
    """How many numbers each parameter has, of a replica."""
    numbers: Tensor
    """``(*batch_shape, tasks, sum of sizes)``."""

    def of(self, place: int) -> Tensor:
        """Those of one parameter, ``(*batch_shape, tasks, numbers)``."""
        if len(self.places) == 1:
            return self.numbers
        at = self.places.index(place)
        return self.numbers.narrow(-1, sum(self.sizes[:at]), self.sizes[at])

    def only(self, place: int) -> _Block:
        """Those of one parameter; nothing is copied."""
        numbers = self.of(place)
        return _Block((place,), self.tasks, (numbers.shape[-1],), numbers)


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
        self._rows: list[dict[int, Tensor]] = [{} for _ in self.parameters]
        """For each parameter, by task, the gradient of a loss that reaches it, as long as it is in no block."""
        self._blocks: dict[int, _Block] = {}
        """For each place of a parameter, the block that holds its gradients."""
        self.heads: Mapping[int, int] = {}
        """Places of parameters that one task alone ever reaches, and this task: ``add`` makes one pass for all of them."""

    @property
    def num_bytes(self) -> int:
        """What is held."""
        blocks = {id(block): block.numbers for block in self._blocks.values()}
        rows = (row for found in self._rows for row in found.values())
        return sum(held.numel() * held.element_size() for held in (*blocks.values(), *rows))

    def rows(self, place: int) -> dict[int, Tensor]:
        """By task, the gradient of a loss that reaches parameter number ``place``, in its shape."""
        if (block := self._blocks.get(place)) is None:
            return self._rows[place]
        numbers = block.of(place).movedim(self.replica_dims, 0)
        return {task: own.reshape(self.parameters[place].shape) for task, own in zip(block.tasks, numbers, strict=True)}

    def add(self, losses: Tensor | Sequence[Tensor], *, present: Tensor | None = None) -> None:
        """Add a micro-batch's gradients by one backward pass per task.

        losses   ``(*batch_shape, K)`` with graph, which is kept, or a sequence of K losses; each its share of the step's
        present  bool ``(*batch_shape, K)``: tasks that are seen to be absent take no pass; None: all are there
        """
        seen = None if present is None else visible(present.reshape(-1, self.num_tasks).any(0))
        starts = {task: start for task, start in enumerate(_starts(losses)) if seen is None or seen[task]}
        shared = [place for place in range(len(self.parameters)) if place not in self.heads]
        for task, start in starts.items():
            for place, gradient in self._gradients([start], shared, retain_graph=True):
                self._add(task, place, gradient)
        # The sum of all losses has there the gradient of the one loss that reaches it.
        for place, gradient in self._gradients(list(starts.values()), list(self.heads), retain_graph=True):
            self._add(self.heads[place], place, gradient)

    def add_task(self, task: int, loss: Tensor) -> None:
        """Add the gradients of one task's loss, ``(*batch_shape)``; its graph is used up."""
        for place, gradient in self._gradients([loss], range(len(self.parameters)), retain_graph=False):
            self._add(task, place, gradient)

    def add_rows(self, place: int, found: Tensor) -> None:
        """Add the gradients of all tasks by parameter number ``place``, ``(K, *shape)``, which are then the Jacobian's."""
        numbers = in_one_row(found, 1 + self.replica_dims).movedim(0, self.replica_dims)
        if self.rows(place):
            numbers = numbers + self._numbers(place)
        self._rows[place] = {}
        self._blocks[place] = _Block((place,), tuple(range(self.num_tasks)), (numbers.shape[-1],), numbers)

    def clear(self) -> None:
        """Forget everything that was added."""
        self._rows = [{} for _ in self.parameters]
        self._blocks = {}

    def take(self) -> Jacobian:
        """What was added, as another Jacobian; nothing of it is left here, and nothing is copied."""
        taken = copy.copy(self)
        self.clear()
        return taken

    def gramian(self, *, among: Iterable[Tensor] | None = None) -> Tensor:
        """Inner products of the gradients, ``(*batch_shape, K, K)``, in float64; within a parameter at least in float32.

        among  the parameters that count; None: all
        """
        found = self._zeros(self.num_tasks, self.num_tasks)
        for block in self._side_by_side(self._places(among)):
            self._add_products(found, block.tasks, block.tasks, _wide_products(block.numbers, block.numbers))
        return found

    @torch.no_grad()
    def cross_gramian(self, others: Jacobian, *, among: Iterable[Tensor] | None = None) -> Tensor:
        """Inner products of these gradients, the rows, with others, the columns, as ``gramian``.

        others  gradients of as many tasks by these parameters, or by some of them
        among   the parameters that count; None: all
        """
        found = self._zeros(self.num_tasks, self.num_tasks)
        elsewhere = {id(others.parameters[place]): place for place in others._places(among)}
        for place in self._places(among):
            if (other := elsewhere.get(id(self.parameters[place]))) is not None:
                products = _wide_products(self._numbers(place), others._numbers(other))
                self._add_products(found, self._tasks(place), others._tasks(other), products)
        return found

    @torch.no_grad()
    def norms(self, *, among: Iterable[Tensor] | None = None) -> Tensor:
        """Norms of the gradients, ``(*batch_shape, K)``, in float64; ``among`` as in ``gramian``."""
        found = self._zeros(self.num_tasks)
        for place in self._places(among):
            squares = wide(torch.linalg.vector_norm(self._numbers(place), dim=-1)).square()
            found[..., list(self._tasks(place))] += squares
        return found.sqrt()

    @torch.no_grad()
    def apply(self, weights: Tensor, *, among: Iterable[Tensor] | None = None) -> None:
        """Add the weighted sum of the gradients to each parameter's ``.grad``, as a backward pass of the total would.

        weights  ``(*batch_shape, K)``; of weight 0, as for an absent task, nothing is added, whatever the gradient
        among    the parameters that count; None: all
        """
        places = self._places(among)
        alone = {place for place in places if len(self._rows[place]) == 1}
        seen = visible(weights)
        for place in alone:
            ((task, row),) = self._rows[place].items()
            number = None if seen is None or self.replica_dims else seen[task]
            self._add_gradient(place, _weighted(row, weights[..., task], number))
        some_zero = seen is None or 0 in seen
        for block in self._side_by_side([place for place in places if place not in alone]):
            numbers = block.numbers.to(_at_least_float32(block.numbers))
            factors = (weights if len(block.tasks) == self.num_tasks else weights[..., list(block.tasks)]).to(numbers)
            if some_zero:
                numbers = torch.where(factors.unsqueeze(-1) != 0, numbers, 0.0)
            gradient = (factors.unsqueeze(-2) @ numbers).squeeze(-2)
            for place, own in zip(block.places, torch.split(gradient, list(block.sizes), dim=-1), strict=True):
                self._add_gradient(place, own)

    def _add_gradient(self, place: int, gradient: Tensor) -> None:
        parameter = self.parameters[place]
        own = gradient.reshape(parameter.shape).to(parameter.dtype).contiguous()
        parameter.grad = own if parameter.grad is None else parameter.grad + own

    def _gradients(
        self, starts: Sequence[Tensor | GradientEdge], places: Sequence[int], *, retain_graph: bool
    ) -> Iterator[tuple[int, Tensor]]:
        """Of the sum of some losses, by the parameters at ``places`` that it reaches."""
        starts = [start for start in starts if isinstance(start, GradientEdge) or start.requires_grad]
        if not starts or not places:
            return
        one = self.parameters[0].new_ones(())
        ones = [torch.ones_like(start) if isinstance(start, Tensor) else one for start in starts]
        parameters = [self.parameters[place] for place in places]
        found = torch.autograd.grad(
            cast("Sequence[Tensor]", starts), parameters, ones, retain_graph=retain_graph, allow_unused=True
        )
        yield from ((place, own) for place, own in zip(places, found, strict=True) if own is not None)

    def _add(self, task: int, place: int, gradient: Tensor) -> None:
        if place in self._blocks:
            self._rows[place] = self.rows(place)
            del self._blocks[place]
        rows = self._rows[place]
        rows[task] = rows[task] + gradient if task in rows else gradient

    def _places(self, among: Iterable[Tensor] | None) -> list[int]:
        """Those of the parameters that some loss has reached."""
        chosen = None if among is None else {id(parameter) for parameter in among}
        places = (place for place, rows in enumerate(self._rows) if rows or place in self._blocks)
        return [place for place in places if chosen is None or id(self.parameters[place]) in chosen]

    def _tasks(self, place: int) -> tuple[int, ...]:
        """Those that reach a parameter, in their order."""
        block = self._blocks.get(place)
        # A task that the first micro-batch lacks has come last.
        return tuple(sorted(self._rows[place])) if block is None else block.tasks

    def _numbers(self, place: int) -> Tensor:
        """The rows of a parameter in the order of tasks, ``(*batch_shape, tasks, numbers)``."""
        block = self._blocks.get(place) or self._block([place], self._tasks(place))
        return block.of(place)

    def _side_by_side(self, places: Sequence[int]) -> list[_Block]:
        """The rows of some parameters, those that the same tasks reach in few tensors."""
        chosen, blocks = set(places), []
        loose = defaultdict[tuple[tuple[int, ...], torch.dtype], list[int]](list)
        for place in places:
            if (block := self._blocks.get(place)) is None:
                loose[self._tasks(place), self.parameters[place].dtype].append(place)
            elif not chosen.issuperset(block.places):
                blocks.append(block.only(place))
            elif place == block.places[0]:
                blocks.append(block)
        return blocks + [self._block(some, tasks) for (tasks, _), group in loose.items() for some in self._cut(group)]

    def _cut(self, places: Sequence[int]) -> Iterator[list[int]]:
        """Into groups of which each is small beside a model: while one is copied, it is held twice."""
        some: list[int] = []
        numbers = 0
        for place in places:
            size = self.parameters[place].numel() * self.num_tasks
            if some and numbers + size > LARGEST_BLOCK:
                yield some
                some, numbers = [], 0
            some.append(place)
            numbers += size
        if some:
            yield some

    def _block(self, places: Sequence[int], tasks: Sequence[int]) -> _Block:
        """A copy of the rows of some parameters that the same tasks reach, in the place of these rows."""
        rows = [self.rows(place) for place in places]
        parts = [in_one_row(own[task], self.replica_dims) for task in tasks for own in rows]
        numbers = torch.cat(parts, dim=-1)
        numbers = numbers.reshape(*numbers.shape[:-1], len(tasks), -1)
        sizes = tuple(part.shape[-1] for part in parts[: len(places)])
        block = _Block(tuple(places), tuple(tasks), sizes, numbers)
        for place in places:
            self._rows[place], self._blocks[place] = {}, block
        return block

    def _zeros(self, *shape: int) -> Tensor:
        first = self.parameters[0]
        return wide(torch.zeros((*first.shape[: self.replica_dims], *shape), device=first.device))

    def _add_products(self, found: Tensor, rows: Sequence[int], columns: Sequence[int], products: Tensor) -> None:
        if len(rows) == len(columns) == self.num_tasks:
            found += products
        else:
            found[..., torch.tensor(rows).unsqueeze(-1), torch.tensor(columns)] += products


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


def _weighted(row: Tensor, weights: Tensor, number: float | None) -> Tensor:
    """A task's gradient times its weight, at least in float32; 0 of weight 0, whatever the gradient.

    weights  ``(*batch_shape)``
    number   the weight, where there are no replicas and looking at it waits for nothing; else None
    """
    row = row.to(_at_least_float32(row))
    if number is not None:
        return row * number if number else torch.zeros_like(row)
    factor = weights.reshape(*weights.shape, *(1 for _ in row.shape[weights.dim() :]))
    return torch.where(factor != 0, factor.to(row) * row, 0.0)


def _at_least_float32(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _wide_products(rows: Tensor, columns: Tensor) -> Tensor:
    """Inner products of ``(*batch_shape, K, numbers)`` and the same, each sum taken at least in float32."""
    dtype = _at_least_float32(rows)
    return wide(rows.to(dtype) @ columns.to(dtype).mT)


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
