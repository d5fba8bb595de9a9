"""The norms of the task gradients at the shared layer, over all micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.contract import Problem
from benchmarks.shared_layer import shared_layers, trained_parameters
from weighting.jacobians import Jacobian
from weighting.row_gradients import alone


class SharedLayerNorms:
    """Norms of the unweighted task gradients at the shared layer.

    Where the rows of a linear layer's input belong to one task each, the gradient that arrives at its output in the
    backward pass of the weighted total is, row for row, w_i times that of L_i. So the norms of all tasks follow from that
    pass and one batched product, and no further backward pass is made. Elsewhere each task takes a partial pass of its own
    from its loss to the layer: for several modules, for a module with children, for one whose weight is used elsewhere too,
    and where a task that is there has the weight 0.

    chosen  names of modules in place of the problem's shared layer

    Raises ValueError if none of the parameters is trained.
    """

    def __init__(self, problem: Problem, model: nn.Module, chosen: Sequence[str] | None = None) -> None:
        self.num_tasks = problem.num_tasks
        layers = shared_layers(problem, model, chosen)
        self.parameters = trained_parameters(problem, layers)
        self.jacobian = Jacobian(problem.num_tasks, self.parameters, replica_dims=len(problem.batch_shape))
        self.by_rows = (
            problem.rows_belong_to_tasks and len(layers) == 1 and alone(layers[0].parameters(), model) is layers[0]
        )
        self.extra_backwards = 0
        self._armed = self._passes = False
        self._inputs: list[Tensor] = []
        self._output_gradient: Tensor | None = None
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        if self.by_rows:
            layers[0].register_forward_hook(self._remember)

    def arm(self) -> None:
        """Watch the coming forward pass."""
        self._armed, self._inputs = self.by_rows, []

    def before_backward(self, losses: Tensor, weights: Tensor, present: Tensor | None) -> None:
        """Take the passes of their own, where they are needed.

        losses   ``(*batch_shape, K)`` with graph, each its share of the batch's mean
        weights  ``(*batch_shape, K)``
        present  bool, as weights; None: all
        """
        self._armed = False
        self._passes = not self.by_rows or len(self._inputs) != 1 or _has_zero(weights, present)
        if self._passes:
            self.extra_backwards += self.num_tasks
            self.jacobian.add(losses)

    @torch.no_grad()
    def after_backward(self) -> None:
        """Take what the backward pass of the weighted total left behind."""
        if self._passes:
            return
        if self._output_gradient is None:
            raise RuntimeError("expected the shared layer in the backward pass, found it unused")
        inputs = self._inputs[0].reshape(self.num_tasks, -1, self._inputs[0].shape[-1])
        outputs = self._output_gradient.reshape(self.num_tasks, -1, self._output_gradient.shape[-1])
        self._inputs, self._output_gradient = [], None
        weight = torch.bmm(outputs.mT, inputs)
        self._weight = weight if self._weight is None else self._weight + weight
        if len(self.parameters) > 1:
            bias = outputs.sum(-2)
            self._bias = bias if self._bias is None else self._bias + bias

    @torch.no_grad()
    def take(self, weights: Tensor) -> Tensor:
        """The norms ``(*batch_shape, K)`` of the step that was made with ``weights``."""
        weight, bias = self._weight, self._bias
        self._weight = self._bias = None
        if weight is None:
            norms = self.jacobian.norms()
            self.jacobian.clear()
            return norms
        squared = weight.square().sum((-2, -1))
        if bias is not None:
            squared = squared + bias.square().sum(-1)
        return squared.sqrt() / weights.abs()

    def _remember(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._armed and output.requires_grad:
            self._inputs.append(inputs[0].detach())
            output.register_hook(self._remember_gradient)  # type: ignore[no-untyped-call]

    def _remember_gradient(self, gradient: Tensor) -> None:
        self._output_gradient = gradient.detach()


def _has_zero(weights: Tensor, present: Tensor | None) -> bool:
    """Whether a present task is seen to have the weight 0. On a device, where looking would wait, none is taken to have it:
    such a task's norm is then not finite, and the method counts it as absent."""
    if weights.device.type != "cpu":
        return False
    zero = weights == 0
    return bool((zero if present is None else zero & present).any())
