"""Methods with a fault that tests must find."""

from __future__ import annotations

from torch import Tensor

from weighting import Observation
from weighting.coba import CoBa
from weighting.dwa import DynamicWeightAverage, loss_ratio
from weighting.famo import Famo


class SlopeFlipped(CoBa):
    """The sign of the slopes."""

    def _scores(self, slopes: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        return super()._scores(-slopes, live)


class RatioUpsideDown(DynamicWeightAverage):
    """The older window by the newer."""

    def _ratio(self) -> Tensor:
        return loss_ratio(self.previous.where(~self.previous.isnan(), self.last), self.last)


class TenTimesTooFast(Famo):
    """The learning rate of the logits."""

    def update(self, after: Observation) -> None:
        self.optimizer.lr = 0.25
        super().update(after)
