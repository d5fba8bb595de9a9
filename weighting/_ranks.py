"""The processes of a distributed training, seen as one: sums and extremes over all of them."""

from __future__ import annotations

from torch import Tensor, distributed


class Ranks:
    """Those that numbers are reduced over; one where ``torch.distributed`` does not run. In each call all must join.

    group  process group; None: the default one
    """

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        self.group = group

    @property
    def number(self) -> int:
        """How many there are, at least 1."""
        running = distributed.is_available() and distributed.is_initialized()
        return distributed.get_world_size(self.group) if running else 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all of them; on one, the values themselves."""
        return self._reduced(values, distributed.ReduceOp.SUM) if self.number > 1 else values

    def highest(self, values: Tensor) -> Tensor:
        """The greatest of all of them, number by number."""
        return self._reduced(values, distributed.ReduceOp.MAX) if self.number > 1 else values

    def lowest(self, values: Tensor) -> Tensor:
        """The least of all of them, number by number."""
        return -self.highest(-values)

    def _reduced(self, values: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
        found = values.clone()
        distributed.all_reduce(found, op=how, group=self.group)
        return found
