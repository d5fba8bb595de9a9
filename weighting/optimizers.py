"""Gradient steps on a method's own parameters: torch's SGD and Adam, element by element, with all state in buffers.

Torch's own optimizers are not used because an absent task must leave its moments and its step count untouched, and
because their state does not travel with the method's ``state_dict``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from weighting.base import check, check_choice

OptimizerName = Literal["adam", "sgd"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class ElementOptimizer(nn.Module):
    """Kingma and Ba's Adam (ICLR 2015, Algorithm 1) or SGD with momentum, on a tensor of independent elements.

    owner         name of the method, for error messages
    shape         shape of the parameters
    lr            > 0
    momentum      of SGD, in [0, 1): v <- momentum v + g, x <- x - lr v
    weight_decay  >= 0, added to the gradient as weight_decay * x
    """

    def __init__(
        self,
        owner: str,
        shape: tuple[int, ...],
        *,
        optimizer: OptimizerName,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice(owner, "optimizer", optimizer, ("adam", "sgd"))
        check(owner, "lr", lr, above=0)
        check(owner, "momentum", momentum, least=0, below=1)
        check(owner, "weight_decay", weight_decay, least=0)
        self.optimizer, self.lr, self.momentum, self.weight_decay = optimizer, lr, momentum, weight_decay
        self.register_buffer("first_moment", torch.zeros(shape, dtype=torch.float64))
        self.first_moment: Tensor
        if optimizer == "adam":
            self.register_buffer("second_moment", torch.zeros(shape, dtype=torch.float64))
            self.register_buffer("steps", torch.zeros(shape, dtype=torch.float64))
            self.second_moment: Tensor
            self.steps: Tensor

    def step(self, values: Tensor, gradient: Tensor, present: Tensor | None) -> None:
        """Move ``values`` in place, against ``gradient``; elements that are not ``present`` stay as they are.

        All of the shape given at creation.
        """
        if self.weight_decay:
            gradient = gradient + self.weight_decay * values
        change = self._adam(gradient, present) if self.optimizer == "adam" else self._sgd(gradient, present)
        _assign(values, values - self.lr * change, present)

    def _sgd(self, gradient: Tensor, present: Tensor | None) -> Tensor:
        _assign(self.first_moment, self.momentum * self.first_moment + gradient, present)
        return self.first_moment

    def _adam(self, gradient: Tensor, present: Tensor | None) -> Tensor:
        _assign(self.steps, self.steps + 1, present)
        _assign(self.first_moment, torch.lerp(gradient, self.first_moment, BETA1), present)
        _assign(self.second_moment, torch.lerp(gradient * gradient, self.second_moment, BETA2), present)
        mean = self.first_moment / (1 - BETA1**self.steps)
        root = (self.second_moment / (1 - BETA2**self.steps)).sqrt()
        return mean / (root + EPSILON)


def _assign(target: Tensor, value: Tensor, present: Tensor | None) -> None:
    target.copy_(value if present is None else torch.where(present, value, target))
