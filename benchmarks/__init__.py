"""What measures: problems, the harness that trains them, the report that reads the records.

``load``, ``load_trajectories`` and ``load_scores`` give the records as data frames; see docs/data.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.analysis.scores import load_scores
    from benchmarks.records.frames import load, load_trajectories

__all__ = ["load", "load_scores", "load_trajectories"]

_HOMES = {"load": "records.frames", "load_trajectories": "records.frames", "load_scores": "analysis.scores"}


def __getattr__(name: str) -> Any:
    # On first use: every module of this package imports the package, and most need no data frames.
    if name in _HOMES:
        return getattr(import_module(f"benchmarks.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
