"""Two processes with gloo, for functions of a module that can be imported; they know nothing of what tests did before."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

RANKS = 2


def _one(rank: int, meeting: str, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...], start: bool) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1"}
    if start:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    torch.save(work(rank, *arguments), Path(folder) / f"{rank}.pt")
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _all(method: str, shared: tuple[Any, ...]) -> None:
    """Start both ranks and wait for them. Forked, they share what was imported, which is no garbage."""
    gc.freeze()
    context: Any = multiprocessing.get_context(method)
    processes = [context.Process(target=_one, args=(rank, *shared)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * RANKS


def on_ranks(folder: Path, work: Callable[..., Any], *arguments: Any, port: int | None = None) -> list[Any]:
    """What ``work(rank, *arguments)`` gave on each rank. port: the framework starts the processes' group itself, there."""
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)
    shared = (str(folder / "meeting"), str(folder), work, arguments, port is None)
    if sys.platform == "linux":
        parent = multiprocessing.get_context("spawn").Process(target=_all, args=("fork", shared))
        parent.start()
        parent.join(240)
        assert parent.exitcode == 0
    else:
        _all("spawn", shared)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
