"""What a method remembers of the past: windows with a slope, windows with a sum, and a series that grows.

Shapes are ``(*shape,)`` for the items remembered at a time (replicas and tasks); items that are not present leave no
trace, so every item has its own record count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Window(nn.Module):
    """The last ``length`` rows of ``width`` numbers of each item, in no particular order; empty rows are zeros.

    shape   of the items, e.g. ``(*batch_shape, K)``
    length  rows kept per item, >= 1
    """

    def __init__(self, shape: tuple[int, ...], length: int, width: int = 1) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.register_buffer("rows", torch.zeros(*shape, length, width, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.int64))
        self.rows: Tensor
        self.counts: Tensor

    def add(self, row: Tensor, present: Tensor | None) -> None:
        """Record a row ``(*shape, width)`` for each present item (None: all); the oldest goes when the window is full."""
        place = (self.counts % self.length)[..., None, None].expand(*self.counts.shape, 1, self.width)
        row = row.unsqueeze(-2)
        if present is None:
            self.counts += 1
        else:
            row = torch.where(present[..., None, None], row, self.rows.gather(-2, place))
            self.counts += present
        self.rows.scatter_(-2, place, row)

    def filled(self) -> Tensor:
        """How many rows each item has, ``(*shape)``."""
        return self.counts.clamp(max=self.length)

    def sum(self) -> Tensor:
        """Sum over the window of the first number of each row, ``(*shape)``."""
        return self.rows[..., 0].sum(-1)


class TrendWindow(Window):
    """The last ``length`` points (x, y) of each item, with the slope of their regression line.

    A row is (1, x, y) with x counted back from now, so that its sums of squares stay small in runs of any length.
    """

    def __init__(self, shape: tuple[int, ...], length: int) -> None:
        super().__init__(shape, length, width=3)

    def add_point(self, value: Tensor, elapsed: Tensor | float, present: Tensor | None) -> None:
        """Let ``elapsed`` (a number, or one per item) pass, then record y = ``value`` ``(*shape)`` for each present item."""
        passed = elapsed.unsqueeze(-1) if isinstance(elapsed, Tensor) else elapsed
        self.rows[..., 1] -= passed * self.rows[..., 0]
        self.add(torch.stack((torch.ones_like(value), torch.zeros_like(value), value), dim=-1), present)

    def slopes(self) -> Tensor:
        """Ordinary least squares slope of each item, ``(*shape)``; 0 with fewer than two points."""
        sums = self.rows.mT @ self.rows
        number, x, y, xx, xy = (sums[..., i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
        return divide(number * xy - x * y, number * xx - x * x)


class TrendSinceStart(nn.Module):
    """All points (x, y) of each item since the start, in the few numbers that their regression line needs.

    Welford's update of means and co-moments, which stays exact where sums of squares would cancel.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        for name in ("time", "counts", "mean_time", "mean_value", "spread", "comoment"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.time: Tensor
        self.counts: Tensor
        self.mean_time: Tensor
        self.mean_value: Tensor
        self.spread: Tensor
        self.comoment: Tensor

    def add_point(self, value: Tensor, elapsed: Tensor | float, present: Tensor | None) -> None:
        """As ``TrendWindow.add_point``."""
        here = torch.ones_like(self.counts) if present is None else present.to(self.counts)
        self.time += elapsed
        self.counts += here
        share = here / self.counts.clamp(min=1)
        from_mean = self.time - self.mean_time
        self.mean_time += share * from_mean
        self.spread += here * from_mean * (self.time - self.mean_time)
        shift = torch.where(here > 0, value - self.mean_value, torch.zeros_like(value))
        self.mean_value += share * shift
        self.comoment += (self.time - self.mean_time) * shift

    def slopes(self) -> Tensor:
        """Ordinary least squares slope of each item; 0 with fewer than two points."""
        return divide(self.comoment, self.spread)


class Series(nn.Module):
    """One number per replica and record, kept for ever; room grows by doubling, so a record costs O(1)."""

    def __init__(self, batch_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("room", torch.zeros(*batch_shape, 64, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.room: Tensor
        self.count: Tensor

    def __len__(self) -> int:
        return int(self.count)

    def add(self, value: Tensor) -> None:
        """Append one number per replica, ``(*batch_shape)``."""
        number = len(self)
        if number == self.room.shape[-1]:
            self.room = torch.cat([self.room, torch.zeros_like(self.room)], dim=-1)
        self.room[..., number] = value
        self.count += 1

    def all(self) -> Tensor:
        """Everything recorded, ``(*batch_shape, count)``."""
        return self.room[..., : len(self)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(prefix + "room")
        if isinstance(saved, Tensor) and saved.shape[:-1] == self.room.shape[:-1]:
            self.room = self.room.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0."""
    zero = denominator == 0
    return (numerator / torch.where(zero, 1.0, denominator)).masked_fill(zero, 0.0)
