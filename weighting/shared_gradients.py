"""Gradients of single tasks at a shared layer, added up over the micro-batches and ranks of one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from weighting._ranks import Ranks
from weighting.gradients import trainable
from weighting.row_gradients import RowGradients, alone

HIDDEN = (
    "expected the tasks' gradients at the shared layer, found none, as under re-entrant activation checkpointing; "
    "use use_reentrant=False, or give step.gradients_of() the sums of a pass of its own; at a layer that FSDP has sharded, "
    "measure norms yourself: grad_norms= in close()"
)

TOLERANCE = 0.02
"""How far, of a task's gradient, both ways to it may lie apart; a bfloat16 model rounds by about half a per cent."""

NOTHING_SEEN = 2.0
"""What a rank says that has nothing to compare; 0 and 1: both ways differ, or agree. The least of all ranks counts."""

DONATED = (
    "expected a graph that each task can go through, found one of torch.compile that is used up by the first; set "
    "torch._functorch.config.donated_buffer = False before the model is compiled"
)


class SharedGradients:
    """The gradient of each UNWEIGHTED task loss by the parameters of a shared layer.

    parameters  the layer, or its parameters; frozen ones do not count
    model       whose gradients are set aside in ``add_by_backward``, and in which the layer is looked for

    At a plain linear layer they come out of the step's own backward pass, where the task of each row is told. Whether that
    is so is seen in the first step, in which passes of their own are made beside it.

    Raises ValueError where no parameter is trained.
    """

    def __init__(self, parameters: nn.Module | Iterable[Tensor], model: nn.Module | None = None) -> None:
        self.parameters = trainable(parameters)
        self.model = model
        layer = None if model is None else alone(self.parameters, model)
        self._by_rows = None if layer is None else RowGradients(layer, self.parameters)
        self.rows_agree: bool | None = None
        """Whether the backward pass of the total gave what passes per task gave; None: not seen yet."""
        self._rows: Tensor | None = None
        self._compared: Tensor | None = None

    def watch(self) -> None:
        """A step begins whose gradients will be asked for."""
        self.clear()
        if self._by_rows is not None and self.rows_agree is not False:
            self._by_rows.watch()

    def add_of(self, losses: Tensor, total: Tensor, factors: Tensor, row_tasks: Tensor | None) -> None:
        """Add a micro-batch, from the backward pass of its total where that can be, else as ``add``.

        losses     ``(K,)`` with graph, which is kept; each its share of the whole step's mean
        total      scalar that ``backward`` will be called on
        factors    ``(K,)`` by which the losses stand in it
        row_tasks  ``(rows,)`` the number of each row's task; None: not known
        """
        follows = self._follows(total, factors, row_tasks)
        if follows and self.rows_agree:
            return
        added = self.add(losses)
        if follows:
            self._compared = _sum(self._compared, added)

    def add(self, losses: Tensor) -> Tensor:
        """Add a micro-batch by one partial backward pass per task; what was added, ``(K, numbers)``.

        losses  ``(K,)`` with graph, which is kept; each its share of the whole step's mean

        Nothing is written to ``.grad``, and no hook of ``DistributedDataParallel`` runs. Raises RuntimeError where the
        gradients do not come through, as under re-entrant activation checkpointing, or at a sharded layer.
        """
        found, reached = [], False
        try:
            for loss in losses.unbind(-1):
                each = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
                reached = reached or any(gradient is not None for gradient in each)
                found.append([torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, each, strict=True)])
        except RuntimeError as error:
            told = DONATED if "donated" in str(error) else HIDDEN
            raise RuntimeError(f"{told} ({str(error).splitlines()[0]})") from error
        if not reached:
            raise RuntimeError(HIDDEN)
        return self._take(found)

    def add_by_backward(self, losses: Tensor) -> None:
        """Add a micro-batch by one whole backward pass per task, which any activation checkpointing lets through.

        losses  ``(K,)`` with graph, which is used up; of a pass of the bare model: inside ``DistributedDataParallel``
                these backward passes would be averaged over ranks, and the step's own with them

        The model's gradients are afterwards what they were before.
        """
        owners = self.parameters if self.model is None else list(self.model.parameters())
        kept = [parameter.grad for parameter in owners]
        try:
            found = []
            for place, loss in enumerate(losses.unbind(-1)):
                for parameter in owners:
                    parameter.grad = None
                loss.backward(retain_graph=place < len(losses) - 1)  # type: ignore[no-untyped-call]
                found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters])
        finally:
            for parameter, gradient in zip(owners, kept, strict=True):
                parameter.grad = gradient
        self._take(found)

    def norms(self, ranks: Ranks) -> Tensor:
        """Norms ``(K,)`` of everything added since the last call, over all ranks.

        Raises RuntimeError if nothing was added.
        """
        followed = None if self._by_rows is None else self._by_rows.rows
        if self.rows_agree:
            self._rows = _sum(self._rows, followed)
        elif self.rows_agree is None and self._by_rows is not None:
            self._compare(followed, ranks)
        found: Tensor = torch.linalg.vector_norm(self._all(ranks), dim=-1)
        return found

    def gramian(self, ranks: Ranks) -> Tensor:
        """Inner products ``(K, K)`` of everything added since the last call, as ``norms``."""
        rows = self._all(ranks)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return rows @ rows.mT

    def clear(self) -> None:
        """Forget what was added."""
        self._rows = self._compared = None
        if self._by_rows is not None:
            self._by_rows.forget()

    def _all(self, ranks: Ranks) -> Tensor:
        """The gradients ``(K, numbers)``: of the whole step, over ranks too, before anything is made of them."""
        rows = self._rows
        self.clear()
        if rows is None:
            raise RuntimeError("expected total() or gradients_of() before the step is closed, found neither")
        return ranks.sum(rows)

    def _follows(self, total: Tensor, factors: Tensor, row_tasks: Tensor | None) -> bool:
        if self._by_rows is None or row_tasks is None or self.rows_agree is False:
            return False
        return self._by_rows.follow(total, factors, row_tasks)

    def _compare(self, followed: Tensor | None, ranks: Ranks) -> None:
        """See whether both ways agree, on all ranks; on none of them, where they differ on one."""
        seen = torch.full((), NOTHING_SEEN, device=self.parameters[0].device)
        if followed is not None and self._compared is not None:
            apart = (followed - self._compared.to(followed)).norm(dim=-1)
            near = TOLERANCE * self._compared.norm(dim=-1).to(followed)
            seen = (apart <= near).all().to(seen)
        seen = ranks.lowest(seen)
        self.rows_agree = None if seen == NOTHING_SEEN else bool(seen)

    def _take(self, found: list[list[Tensor]]) -> Tensor:
        rows = torch.stack([torch.cat([part.flatten() for part in each]) for each in found])
        self._rows = _sum(self._rows, rows)
        return rows


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Of what is there."""
    if one is None or other is None:
        return other if one is None else one
    return one + other
