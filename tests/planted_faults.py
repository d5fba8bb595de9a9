"""Methods with a fault that tests must find."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from weighting import Observation
from weighting.coba import CoBa
from weighting.dwa import DynamicWeightAverage
from weighting.famo import Famo


class SlopeFlipped(CoBa):
    """The sign of the slopes."""

    def _scores(self, slopes: Tensor, live: Tensor, updates: int) -> Any:
        return super()._scores(-slopes, live, updates)


class RatioUpsideDown(DynamicWeightAverage):
    """The older window by the newer."""

    def _shares(self, newer: Tensor, older: Tensor) -> Tensor:
        return super()._shares(older.where(~older.isnan(), newer), newer)


class TenTimesTooFast(Famo):
    """The learning rate of the logits."""

    def update(self, after: Observation) -> None:
        self.optimizer.lr = 0.25
        super().update(after)
