"""Feeding a method the losses of the other split: validation losses instead of training losses, or the reverse.

Source    The rows marked with a star in Gong et al., CoBa, EMNLP 2024, arXiv:2410.06741 (GradNorm, LBTW and FAMO driven by
          validation losses), made general: what drives a method is one question, its rule another.
Meaning   ``feedback="validation"``: wherever the method reads a training loss, it reads the validation loss of the same
          model: at the start the initial ones, in step t those measured after step t - 1. Losses after the step become
          those of one validation mini-batch, measured before and after the step. Gradients stay those of training.
          ``feedback="training"``, for methods made for validation losses: the losses of the training batches instead.
Absent    The weight of a task without any validation loss so far is 0; a task learns where its validation loss is new.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from weighting.base import Feedback, Needs, Observation, Weighter


@functools.cache
def fed_on(kind: type[Weighter], feedback: Feedback) -> type[Weighter]:
    """The method's class, made to read the losses of the given split; the class itself where it does."""
    if feedback == kind.feedback:
        return kind
    if feedback == "validation":
        needs = _from_validation(kind.needs)
        return type(f"{kind.__name__}OnValidation", (_FedOnValidation, kind), {"needs": needs, "feedback": feedback})
    return type(
        f"{kind.__name__}OnTraining", (_FedOnTraining, kind), {"needs": kind.needs & ~Needs.VAL_LOSSES, "feedback": feedback}
    )


def _from_validation(needs: Needs) -> Needs:
    """What has to be measured where a method that needs ``needs`` is fed on validation losses."""
    if Needs.LOSSES_AFTER_STEP in needs:
        needs = needs & ~Needs.LOSSES_AFTER_STEP | Needs.VAL_LOSSES_BEFORE_STEP
    return needs | Needs.VAL_LOSSES


class _FedOnValidation(Weighter):
    """Goes before a method in the order of its bases, and changes what the method is shown."""

    def __init__(self, num_tasks: int, **hyperparameters: Any) -> None:
        super().__init__(num_tasks, **hyperparameters)
        self.add_state("newest_val_losses", float("nan"))
        self.register_buffer("newest_present", torch.zeros(self.shape, dtype=torch.bool))
        self.newest_val_losses: Tensor
        self.newest_present: Tensor

    def claimed(self) -> frozenset[str]:
        """What is balanced are the validation losses, not those that the weights multiply."""
        return super().claimed() - {"balances_losses"}

    def start(self, first: Observation) -> None:
        """Show the initial validation losses."""
        self._take(first)
        super().start(Observation(losses=self._newest(), present=self._mask(self.newest_present)))

    def wants(self) -> Needs:
        """A validation batch after every step, and before it where the method compares the two."""
        return _from_validation(super().wants())

    def weights(self, now: Observation) -> Tensor:
        """The method's answer to the newest validation losses, ``(*batch_shape, K)``."""
        losses = self.read(now, "losses")
        here = self._mask(self.present(now) & ~self.newest_val_losses.isnan())
        # Abstract in Weighter, but the method's own class comes between the two.
        weights = super().weights(now.with_(losses=self._newest(), present=here))  # type: ignore[safe-super]
        return weights.to(losses if now.losses is None else now.losses)

    def update(self, after: Observation) -> None:
        """Show the step, then keep its validation losses for the next."""
        if Needs.LOSSES_AFTER_STEP in super().wants():
            shown = after.with_(
                losses=self.read(after, "val_losses_before"),
                losses_after=self.read(after, "val_losses"),
                present=after.val_present,
            )
        else:
            seen = self.newest_present & self.present(after) if Needs.GRAD_NORMS in self.needs else self.newest_present
            shown = after.with_(losses=self._newest(), present=self._mask(seen))
        super().update(shown)
        self._take(after)

    def _take(self, seen: Observation) -> None:
        losses, present = self.read(seen, "val_losses"), self.present(seen, "val_present")
        self.newest_val_losses.copy_(torch.where(present, losses, self.newest_val_losses))
        self.newest_present.copy_(present)

    def _newest(self) -> Tensor:
        """The newest validation losses, with 1 for tasks without any."""
        return self.newest_val_losses.nan_to_num(nan=1.0)

    def _mask(self, present: Tensor) -> Tensor | None:
        return None if bool(present.all()) else present


class _FedOnTraining(Weighter):
    """As ``_FedOnValidation``, for methods made for validation losses."""

    def start(self, first: Observation) -> None:
        """Show the first training losses."""
        super().start(self._shown(first))

    def wants(self) -> Needs:
        """No validation batch."""
        return super().wants() & ~Needs.VAL_LOSSES

    def update(self, after: Observation) -> None:
        """Show the losses of the training batch."""
        super().update(self._shown(after))

    def _shown(self, seen: Observation) -> Observation:
        return seen.with_(val_losses=seen.losses, val_present=seen.present)
