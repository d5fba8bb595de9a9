"""What a method remembers of the past: windows with a slope, windows with a sum, and a series that grows.

Shapes are ``(*shape,)`` for the items remembered at a time (replicas and tasks); items that are not present leave no
trace, so every item has its own record count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weighting._state import State


class Window(State):
    """The last ``length`` records of ``width`` numbers of each item, in no particular order; empty places are zeros.

    shape   of the items, e.g. ``(*batch_shape, K)``
    length  records kept per item, >= 1
    """

    kept: Tensor
    counts: Tensor

    def __init__(self, shape: tuple[int, ...], length: int, width: int = 1) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.register_buffer("kept", torch.zeros(*shape, width, length, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(*shape, 1, 1, dtype=torch.int64))

    def add(self, record: Tensor, present: Tensor) -> None:
        """Keep a record ``(*shape, width)`` for each present item; the oldest goes when the window is full."""
        kept, counts = self.kept, self.counts
        place = (counts % self.length).expand(*kept.shape[:-1], 1)
        here = present.unsqueeze(-1).unsqueeze(-1)
        kept.scatter_(-1, place, torch.where(here, record.unsqueeze(-1), kept.gather(-1, place)))
        counts.add_(here)

    def filled(self) -> Tensor:
        """How many records each item has, ``(*shape)``."""
        return self.counts.squeeze(-1).squeeze(-1).clamp(max=self.length)

    def sum(self) -> Tensor:
        """Sum over the window of records of one number, ``(*shape)``."""
        return self.kept.sum((-2, -1))


class TrendWindow(Window):
    """The last ``length`` points (x, y) of each item, with the slope of their regression line.

    A record is (1, x, y) with x counted back from now, so that its sums of squares stay small in runs of any length.
    """

    def __init__(self, shape: tuple[int, ...], length: int) -> None:
        super().__init__(shape, length, width=3)

    def add_point(self, value: Tensor, elapsed: Tensor | float, present: Tensor) -> None:
        """Let ``elapsed`` (a number, or one per item) pass, then keep y = ``value`` ``(*shape)`` for each present item."""
        ones, times, _ = self.kept.unbind(-2)
        times.sub_(ones * (elapsed.unsqueeze(-1) if isinstance(elapsed, Tensor) else elapsed))
        self.add(torch.stack((torch.ones_like(value), torch.zeros_like(value), value), dim=-1), present)

    def add_record(self, value: Tensor, present: Tensor) -> None:
        """Keep a record for every item: one that is not present takes up room in the window and has no point.

        The points of an item are numbered without the gaps that such records leave.
        """
        here = present.to(value)
        ones, times, _ = self.kept.unbind(-2)
        times.sub_(ones * here.unsqueeze(-1))
        point = torch.stack((here, torch.zeros_like(here), torch.where(present, value, 0.0)), dim=-1)
        self.add(point, torch.ones_like(present))

    def slopes(self) -> Tensor:
        """Ordinary least squares slope of each item, ``(*shape)``; 0 with fewer than two points."""
        number, x, y, _, xx, xy, *_ = (self.kept @ self.kept.mT).flatten(-2).unbind(-1)
        return divide(number * xy - x * y, number * xx - x * x)


class TrendSinceStart(State):
    """All points (x, y) of each item since the start, in the few numbers that their regression line needs.

    Welford's update of means and co-moments, which stays exact where sums of squares would cancel.
    """

    time: Tensor
    counts: Tensor
    mean_time: Tensor
    mean_value: Tensor
    spread: Tensor
    comoment: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        for name in ("time", "counts", "mean_time", "mean_value", "spread", "comoment"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def add_point(self, value: Tensor, elapsed: Tensor | float, present: Tensor) -> None:
        """As ``TrendWindow.add_point``."""
        here = present.to(self.counts)
        self.time.add_(elapsed)
        self.counts.add_(here)
        share = here / self.counts.clamp(min=1)
        from_mean = self.time - self.mean_time
        self.mean_time.add_(share * from_mean)
        self.spread.add_(here * from_mean * (self.time - self.mean_time))
        shift = torch.where(here > 0, value - self.mean_value, torch.zeros_like(value))
        self.mean_value.add_(share * shift)
        self.comoment.add_((self.time - self.mean_time) * shift)

    def add_record(self, value: Tensor, present: Tensor) -> None:
        """As ``TrendWindow.add_record``; without a window an item that is not present leaves nothing behind."""
        self.add_point(value, present.to(value), present)

    def slopes(self) -> Tensor:
        """Ordinary least squares slope of each item; 0 with fewer than two points."""
        return divide(self.comoment, self.spread)


class Series(State):
    """One number per replica and record, kept for ever; room grows by doubling, so a record costs O(1)."""

    room: Tensor

    def __init__(self, batch_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("room", torch.zeros(*batch_shape, 64, dtype=torch.float64))

    def add(self, value: Tensor, number: int) -> None:
        """Append one number per replica, ``(*batch_shape)``, to the ``number`` that there are."""
        if number == self.room.shape[-1]:
            self.room = torch.cat([self.room, torch.zeros_like(self.room)], dim=-1)
        self.room.select(-1, number).copy_(value)

    def first(self, number: int) -> Tensor:
        """The first so many, ``(*batch_shape, number)``."""
        return self.room.narrow(-1, 0, number)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(prefix + "room")
        if isinstance(saved, Tensor) and saved.shape[:-1] == self.room.shape[:-1]:
            self.room = self.room.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient for denominators >= 0, and 0 for 0/0."""
    return numerator / denominator.clamp(min=torch.finfo(denominator.dtype).tiny)
