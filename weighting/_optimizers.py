"""Gradient steps on a method's own parameters: torch's SGD and Adam, element by element, with all state in buffers.

Torch's own optimizers are not used because an absent task must leave its moments and its step count untouched, and
because their state does not travel with the method's ``state_dict``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from weighting._checks import check, check_choice
from weighting._state import State

OptimizerName = Literal["adam", "sgd"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class ElementOptimizer(State):
    """Kingma and Ba's Adam (ICLR 2015, Algorithm 1) or SGD with momentum, on a tensor of independent elements.

    owner         name of the method, for error messages
    shape         shape of the parameters
    lr            > 0
    momentum      of SGD, in [0, 1): v <- momentum v + g, x <- x - lr v
    weight_decay  >= 0, added to the gradient as weight_decay * x
    """

    first_moment: Tensor
    second_moment: Tensor
    decay1: Tensor
    decay2: Tensor

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
        self.optimizer = optimizer
        self.lr: float = check(owner, "lr", lr, gt=0)
        self.momentum: float = check(owner, "momentum", momentum, ge=0, lt=1)
        self.weight_decay: float = check(owner, "weight_decay", weight_decay, ge=0)
        self.register_buffer("first_moment", torch.zeros(shape, dtype=torch.float64))
        if optimizer == "adam":
            self.register_buffer("second_moment", torch.zeros(shape, dtype=torch.float64))
            # beta ** n, n the number of the element's own steps, kept as running products: powers would cost more.
            self.register_buffer("decay1", torch.ones(shape, dtype=torch.float64))
            self.register_buffer("decay2", torch.ones(shape, dtype=torch.float64))

    def step(self, values: Tensor, gradient: Tensor, present: Tensor) -> None:
        """Move ``values`` in place, against ``gradient``; elements that are not ``present`` stay as they are.

        All of the shape given at creation.
        """
        if self.weight_decay:
            gradient = torch.add(gradient, values, alpha=self.weight_decay)
        change = self._adam(gradient, present) if self.optimizer == "adam" else self._sgd(gradient, present)
        _assign(values, torch.sub(values, change, alpha=self.lr), present)

    def _sgd(self, gradient: Tensor, present: Tensor) -> Tensor:
        _assign(self.first_moment, torch.add(gradient, self.first_moment, alpha=self.momentum), present)
        return self.first_moment

    def _adam(self, gradient: Tensor, present: Tensor) -> Tensor:
        first, second, decay1, decay2 = self.first_moment, self.second_moment, self.decay1, self.decay2
        _assign(decay1, decay1 * BETA1, present)
        _assign(decay2, decay2 * BETA2, present)
        _assign(first, torch.lerp(first, gradient, 1 - BETA1), present)
        _assign(second, torch.addcmul(second * BETA2, gradient, gradient, value=1 - BETA2), present)
        # Elements that were never present divide 0 by 0 here; their values are not assigned.
        return (first / (1 - decay1)).div_((second / (1 - decay2)).sqrt_().add_(EPSILON))


def _assign(target: Tensor, value: Tensor, present: Tensor) -> None:
    target.copy_(torch.where(present, value, target))
