"""What measures: problems, the harness that trains them, the report that reads the records.

``load`` and ``load_trajectories`` give the records as data frames; see docs/data.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.records.frames import load, load_trajectories

__all__ = ["load", "load_trajectories"]


def __getattr__(name: str) -> Any:
    # On first use: every module of this package imports the package, and most need no data frames.
    if name in __all__:
        from benchmarks.records import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
