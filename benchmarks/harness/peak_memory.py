"""The peak memory of a process from some moment on."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import psutil
import torch

_FORGET_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Growth of the process's peak resident set since ``start``; on CUDA the peak of the allocator."""

    def __init__(self) -> None:
        self.before_mb = 0.0

    def start(self, device: torch.device) -> None:
        """Count from now on."""
        # Where the system lets a process forget its peak, that of an earlier run does not count.
        with contextlib.suppress(OSError):
            _FORGET_PEAK.write_text("5")
        self.before_mb = psutil.Process().memory_info().rss / 2**20
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak_mb(self, device: torch.device) -> float | None:
        """In MB; None where the system does not say."""
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        peak = _peak_resident_mb()
        return None if peak is None else max(0.0, peak - self.before_mb)


def _peak_resident_mb() -> float | None:
    """None where the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) / 2**10
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)
