"""Where a method's memory lives: buffers that keep their precision and their numbers whatever is done around them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class State(nn.Module):
    """A module whose buffers are a method's memory.

    A cast of the surrounding model to less than float32 leaves them as they are, and so does the meta device. Other devices,
    ``float()`` and ``double()`` are followed.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> State:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is None or new is None:
                continue
            if new.is_meta and not old.is_meta:
                self._buffers[name] = old
            elif new.is_floating_point() and new.dtype.itemsize < torch.float32.itemsize:
                self._buffers[name] = old.to(new.device)
        return self
