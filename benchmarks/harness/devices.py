"""Which devices train the runs of a plan, and how many runs each of them trains at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.errors import UserError

EXPECTED = "expected cpu, cuda, cuda:N or several as cuda:0-3,6"
NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Devices:
    """The processor, or GPUs of one machine."""

    names: tuple[str, ...] = ("cpu",)
    """As torch knows them; ``("cuda",)``: whichever is current."""
    per_device: int = 1
    """Runs that share a GPU; their times are then no measure of the methods."""

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """What the keys of runs say of it."""
        return "cpu" if self.names == ("cpu",) else "cuda"

    @property
    def slots(self) -> int | None:
        """How many runs the GPUs train at a time; None for the processor, whose cores decide."""
        return None if self.kind == "cpu" else len(self.names) * self.per_device

    def of_slot(self, slot: int) -> str:
        """The device of a slot; neighbouring slots have different ones."""
        return self.names[slot % len(self.names)]

    def __str__(self) -> str:
        return ",".join(self.names) if self.per_device == 1 else f"{','.join(self.names)}, {self.per_device} runs each"


def read_devices(text: str, per_device: int) -> Devices:
    """From ``cpu``, ``cuda``, ``cuda:1`` or ``cuda:0-3,6``. Raises UserError on anything else."""
    kind, colon, numbers = text.partition(":")
    if kind == "cpu" and not colon:
        if per_device != 1:
            raise UserError(f"--per-device: expected GPUs with it, as --devices cuda:0-3, found --devices {text}")
        return Devices()
    if kind != "cuda" or (colon and not numbers):
        raise UserError(f"--devices: {EXPECTED}, found {text!r}")
    names = [f"cuda:{number}" for part in numbers.split(",") for number in _numbers(part, text)] if colon else ["cuda"]
    if len(set(names)) < len(names):
        raise UserError(f"--devices: expected each GPU once, found {text!r}; for runs that share one, --per-device")
    return Devices(tuple(names), per_device)


def check_here(devices: Devices) -> None:
    """Raise UserError if this machine lacks one of them."""
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    missing = [name for name in devices.names if name != "cpu" and int(name.partition(":")[2] or 0) >= number]
    if missing:
        found = f"{number} CUDA device{'s' * (number != 1)}" if number else "no CUDA device"
        raise UserError(f"--devices: expected devices that this machine has, found {', '.join(missing)} and {found}")


def _numbers(part: str, text: str) -> range:
    found = NUMBERS.fullmatch(part)
    if found is None:
        raise UserError(f"--devices: {EXPECTED}, found {text!r}")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise UserError(f"--devices: expected numbers in rising order, found {text!r}")
    return range(first, last + 1)
