"""Where a result comes from: versions, commit and machine, as the record keeps them."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "pandas")


def versions() -> dict[str, str]:
    """Python and the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def commit() -> str | None:
    """The commit of the project's checkout, with ``+changes`` if files differ from it; None outside a checkout."""
    return commit_of(Path(__file__).resolve())


def commit_of(file: Path) -> str | None:
    """The commit of the checkout that a file of the project belongs to.

    None where it is installed, be it in an environment that lies within the checkout of something else.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=file.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", file.name)
        head = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/weighting", ":/benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head[:12] + ("+changes" if changes else "")


def now() -> str:
    """The time as records keep it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine(device: torch.device) -> dict[str, Any]:
    """What the run was trained on. No names of hosts or users."""
    facts: dict[str, Any] = {
        "host": host(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        # Another width of vectors sums in another order: the last digits differ, and with them the run.
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        # Older versions of torch do not tell.
        if uuid := getattr(torch.cuda.get_device_properties(device), "uuid", None):
            facts["gpu_id"] = _digits(f"benchmarks gpu {uuid}")
    return facts


def host() -> str:
    """8 hexadecimal digits that tell this machine from others of its kind without giving its name away."""
    return _digits(f"benchmarks host {platform.node()}")


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@functools.cache
def code() -> str:
    """16 hexadecimal digits of all modules of the project as they lie here: equal where the same code trains."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[2]
    for package in ("benchmarks", "weighting"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
