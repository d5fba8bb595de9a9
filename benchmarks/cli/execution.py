"""From options to how runs are carried out."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.errors import UserError
from benchmarks.harness.devices import read_devices
from benchmarks.harness.executor import Cluster


def execution(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``dispatcher.execute`` beside the plan's own. Raises UserError."""
    for name in ("address", "new_processes"):
        if getattr(options, name) and options.executor != "ray":
            option = name.replace("_", "-")
            raise UserError(f"--{option}: expected --executor ray with it, found --executor {options.executor}")
    devices = read_devices(options.devices, options.per_device)
    if options.executor == "ray" and devices.names not in (("cpu",), ("cuda",)):
        raise UserError(
            f"--devices: expected cpu or cuda with --executor ray, which chooses among GPUs, found {options.devices}"
        )
    if options.executor == "local" and options.jobs and devices.slots and options.jobs > devices.slots:
        raise UserError(
            f"--jobs: expected at most {devices.slots}, one for each GPU unless --per-device says more, found {options.jobs}"
        )
    return {
        "jobs": options.jobs,
        "devices": devices,
        "executor": options.executor,
        "cluster": Cluster(options.address or "local", options.new_processes),
        "wait": not options.no_wait,
    }
