"""What methods ask about gradients: their norms at the shared layer, and their inner products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.base import Problem


def task_gradients(losses: Tensor, parameters: list[nn.Parameter]) -> list[list[Tensor]]:
    """For each task, the gradient of its loss (summed over replicas) by each parameter; zeros where there is none.

    losses ``(*batch_shape, K)`` with graph, which is kept.
    """
    gradients = []
    for loss in losses.unbind(-1):
        found = torch.autograd.grad(loss.sum(), parameters, retain_graph=True, allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])
    return gradients


def gramian(losses: Tensor, parameters: list[nn.Parameter], replica_dims: int) -> Tensor:
    """Inner products of the task gradients over the parameters, ``(*batch_shape, K, K)``."""
    rows = [
        torch.cat([gradient.flatten(replica_dims) for gradient in gradients], dim=-1)
        for gradients in task_gradients(losses, parameters)
    ]
    jacobian = torch.stack(rows, dim=-2)
    return jacobian @ jacobian.mT


class SharedLayerNorms:
    """Norms of the unweighted task gradients at a problem's shared layer.

    Where the rows of the layer's input belong to one task each, the gradient that arrives at its output in the one
    backward pass of the weighted total is, row for row, w_i times that of L_i. So the norms of all tasks follow from that
    pass and one batched product, and no further backward pass is made. Elsewhere each task takes a partial pass of its own
    from its loss to the layer.
    """

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        self.num_tasks, self.replica_dims = problem.num_tasks, len(problem.batch_shape)
        self.layer = problem.shared_layer(model)
        self.parameters = [p for p in self.layer.parameters(recurse=False) if p.requires_grad]
        if not self.parameters:
            raise ValueError(f"{problem.name}: expected trainable parameters in the shared layer, found none")
        self.by_rows = problem.rows_belong_to_tasks
        self.extra_backwards = 0
        self._input: Tensor | None = None
        self._output_gradient: Tensor | None = None
        self._armed = False
        if self.by_rows:
            self.layer.register_forward_hook(self._remember)

    def arm(self) -> None:
        """Watch the coming forward pass."""
        self._armed = self.by_rows

    def before_backward(self, losses: Tensor, weights: Tensor) -> Tensor | None:
        """The norms ``(*batch_shape, K)``, where they take passes of their own; None: ``after_backward`` has them."""
        self._armed = False
        if self.by_rows and not bool((weights == 0).any()):
            return None
        self.extra_backwards += self.num_tasks
        norms = []
        for gradients in task_gradients(losses, self.parameters):
            flat = torch.cat([gradient.flatten(self.replica_dims) for gradient in gradients], dim=-1)
            norms.append(flat.norm(dim=-1))
        return torch.stack(norms, dim=-1)

    @torch.no_grad()
    def after_backward(self, weights: Tensor) -> Tensor:
        """The norms ``(K,)`` from what the backward pass of the weighted total, with ``weights`` ``(K,)``, left behind."""
        if self._input is None or self._output_gradient is None:
            raise RuntimeError("expected the shared layer in the forward and backward pass, found it unused")
        inputs = self._input.reshape(self.num_tasks, -1, self._input.shape[-1])
        outputs = self._output_gradient.reshape(self.num_tasks, -1, self._output_gradient.shape[-1])
        self._input = self._output_gradient = None
        squared = torch.bmm(outputs.mT, inputs).square().sum((-2, -1))
        if len(self.parameters) > 1:
            squared = squared + outputs.sum(-2).square().sum(-1)
        return squared.sqrt() / weights.abs()

    def _remember(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._armed and output.requires_grad:
            self._input = inputs[0].detach()
            output.register_hook(self._remember_gradient)  # type: ignore[no-untyped-call]

    def _remember_gradient(self, gradient: Tensor) -> None:
        self._output_gradient = gradient.detach()
