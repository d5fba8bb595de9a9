"""Feeding a method the losses of the other split: validation losses instead of training losses, or the reverse.

Source    The rows marked with a star in Gong et al., CoBa, EMNLP 2024, arXiv:2410.06741 (GradNorm, LBTW and FAMO driven by
          validation losses), made general: what drives a method is one question, its rule another.
Meaning   ``losses_from="validation"``: wherever the method reads a training loss, it reads the validation loss of the same
          model: at the start the initial ones, in step t those measured after step t - 1. Losses after the step become
          those of one validation mini-batch, measured before and after the step. Gradients stay those of training.
          ``losses_from="training"``, for methods made for validation losses: the losses of the training batches instead.
Absent    The weight of a task without any validation loss so far is 0; a task learns where its validation loss is new.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weighting.claim import Claim
from weighting.contract import LossesFrom, Weighter
from weighting.observation import Needs, Observation


def on_split(inner: Weighter, losses_from: LossesFrom) -> Weighter:
    """The method made to read the losses of the given split; the method itself where it does."""
    if losses_from == inner.losses_from:
        return inner
    return _OnValidation(inner) if losses_from == "validation" else _OnTraining(inner)


class _OnOtherSplit(Weighter):
    """A method that is shown other losses than those it was made for. Its face is that of the method inside."""

    name = "on_other_split"
    inner: Weighter

    def __init__(self, inner: Weighter) -> None:
        # What is asked of a class is answered for the method inside; set before the base class asks for it.
        face = ("name", "version", "adaptive", "guards", "search", "answers_from", "acts_on")
        self.__dict__.update({field: getattr(inner, field) for field in face})
        super().__init__(inner.num_tasks, batch_shape=inner.batch_shape)
        self.inner = inner
        self.claims = inner.claims

    def __repr__(self) -> str:
        """The method inside, with the split whose losses it is shown."""
        return f"{type(self.inner).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """As the method inside, whose prior is here."""
        prior = [] if self.prior is None else [f"prior={self.prior.tolist()!r}"]
        return ", ".join([self.inner.extra_repr(), f"losses_from={self.losses_from!r}", *prior])

    def probes(self) -> dict[str, Tensor]:
        """Those of the method inside."""
        return self.inner.probes()

    def own_weights(self, now: Observation) -> Tensor:
        """The method's own, of the training losses."""
        return self.as_weights(self.inner.own_weights(now), now)

    def guards_taken(self) -> dict[str, int]:
        """Those of the method inside, and what was left out before it saw it."""
        own, inner = super().guards_taken(), self.inner.guards_taken()
        return {name: own.get(name, 0) + inner.get(name, 0) for name in {**inner, **own}}

    def reset(self) -> None:
        """Start anew, with the method inside."""
        self.inner.reset()
        super().reset()


class _OnValidation(_OnOtherSplit):
    """A method made for training losses, shown validation losses."""

    name = "on_validation"
    newest_losses: Tensor
    newest_counts: Tensor

    def __init__(self, inner: Weighter) -> None:
        super().__init__(inner)
        self.__dict__.update(needs=_from_validation(inner.needs), losses_from="validation", answers_from="state")
        # What is balanced are the validation losses, not those that the weights multiply.
        self.claims = inner.claims & ~Claim.BALANCES_LOSSES
        self.add_state("newest_losses", float("nan"))
        self.add_state("newest_counts", 0.0)

    def start(self, first: Observation) -> None:
        """Show the initial validation losses."""
        self._take(first)
        self.inner.start(Observation(losses=self._newest(), counts=self.newest_counts))

    def wants(self) -> Needs:
        """A validation batch after every step, and before it where the method compares the two."""
        return _from_validation(self.inner.wants())

    def weights(self, now: Observation) -> Tensor:
        """The method's answer to the newest validation losses, ``(*batch_shape, K)``."""
        here = self.present(now) & self.newest_losses.isnan().logical_not()
        shown = Observation(losses=self._newest(), counts=here, gramian=now.gramian)
        return self.as_weights(self.inner.weights(shown), now)

    def update(self, after: Observation) -> None:
        """Show the step, then keep its validation losses for the next."""
        gradients = {"grad_norms": after.grad_norms, "gramian": after.gramian, "cross_gramian": after.cross_gramian}
        shown = Observation(val_counts=after.val_counts, **gradients)
        if Needs.LOSSES_AFTER_STEP in self.inner.wants():
            before, now = self.read(after, "val_losses_before"), self.read(after, "val_losses")
            shown = shown.replace(losses=before, losses_after=now, counts=after.val_counts)
        else:
            reads_training = bool((Needs.GRAD_NORMS | Needs.CROSS_GRAMIAN) & self.needs)
            counts = self.newest_counts * self.present(after) if reads_training else self.newest_counts
            shown = shown.replace(losses=self._newest(), counts=counts)
        self.inner.update(shown)
        self._take(after)

    def _take(self, seen: Observation) -> None:
        losses, present = self.read(seen, "val_losses"), self.present(seen, "val_present")
        self.newest_losses.copy_(torch.where(present, losses, self.newest_losses))
        self.newest_counts.copy_(present if seen.val_counts is None else seen.val_counts)

    def _newest(self) -> Tensor:
        """The newest validation losses, with 1 for tasks without any."""
        return self.newest_losses.nan_to_num(nan=1.0)


class _OnTraining(_OnOtherSplit):
    """A method made for validation losses, shown training losses."""

    name = "on_training"

    def __init__(self, inner: Weighter) -> None:
        super().__init__(inner)
        self.__dict__.update(needs=inner.needs & ~Needs.VAL_LOSSES, losses_from="training")

    def start(self, first: Observation) -> None:
        """Show the first training losses."""
        self.read(first, "losses")
        self.inner.start(self._shown(first))

    def wants(self) -> Needs:
        """No validation batch."""
        return self.inner.wants() & ~Needs.VAL_LOSSES

    def weights(self, now: Observation) -> Tensor:
        """The method's own answer, ``(*batch_shape, K)``."""
        return self.as_weights(self.inner.weights(self._shown(now)), now)

    def update(self, after: Observation) -> None:
        """Show the losses of the training batch."""
        self.read(after, "losses")
        self.inner.update(self._shown(after))

    def _shown(self, seen: Observation) -> Observation:
        return Observation(
            losses=seen.losses,
            counts=seen.counts,
            val_losses=seen.losses,
            val_counts=seen.counts,
            grad_norms=seen.grad_norms,
            gramian=seen.gramian,
            cross_gramian=seen.cross_gramian,
        )


def _from_validation(needs: Needs) -> Needs:
    """What has to be measured where a method that needs ``needs`` is fed on validation losses."""
    if Needs.LOSSES_AFTER_STEP in needs:
        needs = needs & ~Needs.LOSSES_AFTER_STEP | Needs.VAL_LOSSES_BEFORE_STEP
    return needs | Needs.VAL_LOSSES
