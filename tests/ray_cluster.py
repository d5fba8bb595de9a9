"""A Ray cluster of several machines in this one, for tests. Imports Ray on use: it need not be there."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOW = "pip install -r requirements-ray.txt"
TRACE = "trace.txt"


def is_installed() -> bool:
    return importlib.util.find_spec("ray") is not None


class Machines:
    """A first machine without processors, and others with one each."""

    def __init__(self, folder: Path, number: int = 2) -> None:
        if not is_installed():
            pytest.fail(f"expected Ray, found none: {HOW}")
        from ray.cluster_utils import Cluster

        self.trace = folder / TRACE
        with self._environment():
            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._number, self._others, self._broken = number, list[Any](), list[Any]()
        self.replace_the_lost()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def lose_one(self) -> None:
        """As when its power fails."""
        self._cluster.remove_node(self._others.pop(0), allow_graceful=False)

    def lose_a_raylet(self) -> None:
        """What Ray has on each machine dies on one; the processes of runs are left to notice."""
        node = self._others.pop(0)
        node.kill_raylet()
        self._broken.append(node)

    def kill_a_run(self) -> None:
        """The process of the run that has begun last."""
        os.kill(int(self.trace.read_text(encoding="utf-8").splitlines()[-1].split()[0]), signal.SIGKILL)

    def replace_the_lost(self) -> None:
        """Not to be called in a thread that ends: the system ends what a thread has started with it, as Ray asks for."""
        while self._broken:
            self._cluster.remove_node(self._broken.pop(), allow_graceful=False)
        with self._environment():
            self._others += [self._cluster.add_node(num_cpus=1) for _ in range(self._number - len(self._others))]

    def begun(self) -> int:
        """How often the training of a run has been begun or resumed."""
        return len(self.trace.read_text(encoding="utf-8").splitlines()) if self.trace.exists() else 0

    def close(self) -> None:
        self._cluster.shutdown()

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """What machines inherit: every step of the tiny problem takes its time, and every beginning leaves a line."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TINY_SLEEP", "0.03")
            patch.setenv("TINY_TRACE", str(self.trace))
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            # Ray trains at the lowest priority; what else a machine of tests does would hold it up for minutes.
            patch.setenv("RAY_worker_niceness", "0")
            patch.delenv("RAY_ADDRESS", raising=False)
            yield
