"""Gradients of single tasks at a shared layer, added up over the micro-batches and ranks of one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from weighting.gradients import trainable

HIDDEN = (
    "expected the tasks' gradients at the shared layer, found none, as under re-entrant activation checkpointing; "
    "use use_reentrant=False, or give step.gradients_of() the sums of a pass of its own; at a layer that FSDP has sharded, "
    "measure norms yourself: grad_norms= in close()"
)

DONATED = (
    "expected a graph that each task can go through, found one of torch.compile that is used up by the first; set "
    "torch._functorch.config.donated_buffer = False before the model is compiled"
)


class SharedGradients:
    """The gradient of each UNWEIGHTED task loss by the parameters of a shared layer.

    parameters  the layer, or its parameters; frozen ones do not count
    model       whose gradients are set aside in ``add_by_backward``

    Raises ValueError where no parameter is trained.
    """

    def __init__(self, parameters: nn.Module | Iterable[Tensor], model: nn.Module | None = None) -> None:
        self.parameters = trainable(parameters)
        self.model = model
        self._rows: Tensor | None = None

    def add(self, losses: Tensor) -> None:
        """Add a micro-batch by one partial backward pass per task.

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
        self._take(found)

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

    def norms(self, *, shared: bool, group: distributed.ProcessGroup | None) -> Tensor:
        """Norms ``(K,)`` of everything added since the last call, over all ranks where ``shared``.

        Raises RuntimeError if nothing was added.
        """
        found: Tensor = torch.linalg.vector_norm(self._all(shared=shared, group=group), dim=-1)
        return found

    def gramian(self, *, shared: bool, group: distributed.ProcessGroup | None) -> Tensor:
        """Inner products ``(K, K)`` of everything added since the last call, as ``norms``."""
        rows = self._all(shared=shared, group=group)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return rows @ rows.mT

    def clear(self) -> None:
        """Forget what was added."""
        self._rows = None

    def _all(self, *, shared: bool, group: distributed.ProcessGroup | None) -> Tensor:
        """The gradients ``(K, numbers)``: of the whole step, over ranks too, before anything is made of them."""
        rows, self._rows = self._rows, None
        if rows is None:
            raise RuntimeError("expected total() or gradients_of() before the step is closed, found neither")
        if shared:
            distributed.all_reduce(rows, group=group)
        return rows

    def _take(self, found: list[list[Tensor]]) -> None:
        rows = torch.stack([torch.cat([part.flatten() for part in each]) for each in found])
        self._rows = rows if self._rows is None else self._rows + rows
