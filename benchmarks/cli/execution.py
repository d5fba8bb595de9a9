"""From options to how runs are carried out."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.errors import UserError
from benchmarks.harness.executor import Cluster


def execution(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``dispatcher.execute`` beside the plan's own. Raises UserError."""
    for name in ("address", "new_processes"):
        if getattr(options, name) and options.executor != "ray":
            option = name.replace("_", "-")
            raise UserError(f"--{option}: expected --executor ray with it, found --executor {options.executor}")
    if options.executor == "ray" and options.device not in ("cpu", "cuda"):
        raise UserError(
            f"--device: expected cpu or cuda with --executor ray, which chooses among GPUs, found {options.device}"
        )
    return {
        "jobs": options.jobs,
        "device": options.device,
        "executor": options.executor,
        "cluster": Cluster(options.address or "local", options.new_processes),
        "wait": not options.no_wait,
    }
