"""What a gate says of one method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "failed", "not judged"]


@dataclass(frozen=True)
class GateResult:
    """One line of ``check``."""

    gate: str
    """``weights``, ``quality`` or ``cost``."""
    place: str
    """The problem, or the fixed input."""
    method: str
    state: State
    reason: str
    value: float = math.nan
    """The number that was judged: largest relative difference of a weight; mean change in percent, positive: worse; s/step
    relative to uniform by that of the baseline."""
    lacking: bool = False
    """Not judged since a record that it should be judged by was left out: no reason to pass."""
