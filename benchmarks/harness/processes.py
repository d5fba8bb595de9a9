"""Starting processes: forked from a server that has imported what all need, and that is started again when it is killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

import psutil

from benchmarks.harness.interrupts import SIGNALS

ATTEMPTS = 3
"""Times that a process is tried to be started while the server dies."""
LOST = (EOFError, ConnectionError)
"""What starting a process raises whose server is killed meanwhile."""
NOBODY_KNOWS = 255
"""Exit code of a process whose server was killed before it could tell."""


class LostError(Exception):
    """A process could not be started; the message says why, in one line."""


@dataclass
class Process:
    """A process that was started."""

    handle: BaseProcess
    reader: Connection
    """What it sends."""
    itself: psutil.Process | None
    """None: it had ended before it could be looked at."""

    @property
    def pid(self) -> int:
        """Its number."""
        return self.handle.pid or 0

    def terminate(self) -> None:
        """Send SIGTERM. Not through ``handle``, which takes a worker for dead when the server is."""
        if self.itself is not None:
            with contextlib.suppress(psutil.Error):
                self.itself.terminate()

    def join(self) -> str:
        """Wait for its end, and say how that was."""
        self.handle.join()
        self.reader.close()
        code = self.handle.exitcode
        if code == NOBODY_KNOWS:
            return "its process ended, and nobody knows how, since the one that had started it was killed"
        if code is None or code >= 0:
            return f"its process ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"its process was ended by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")


class ProcessStarter:
    """Starts processes. preload: modules that the server imports once for all of them."""

    server: ClassVar[psutil.Process | None] = None
    """One for the whole of this process, as ``multiprocessing`` has it."""

    def __init__(self, preload: list[str]) -> None:
        self.restarts = 0
        self.context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
        if "forkserver" in multiprocessing.get_all_start_methods():
            self.context = multiprocessing.get_context("forkserver")
            self.context.set_forkserver_preload(preload)

    @property
    def said(self) -> str:
        """What happened to the server, in a line."""
        times = f" {self.restarts} times" if self.restarts > 1 else ""
        return (
            f"the process from which runs are started was killed{times}, perhaps for lack of memory, and started again; "
            "runs that were being trained went on"
        )

    def start(self, target: Callable[..., object], *arguments: Any, give_up: Callable[[], bool]) -> Process:
        """A process that calls ``target(*arguments, writer)``. Raises LostError, OSError.

        give_up  asked before each further attempt
        """
        for _ in range(ATTEMPTS):
            try:
                return self._start(target, arguments)
            except LOST as error:
                told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                self._wait_for_its_end()
            if give_up():
                break
        raise LostError(f"no process could be started for it, the one from which they are forked was killed ({told})")

    def _start(self, target: Callable[..., object], arguments: Sequence[Any]) -> Process:
        if isinstance(self.context, ForkServerContext):
            self._ensure_server()
        reader, writer = self.context.Pipe(duplex=False)
        handle = self.context.Process(target=target, args=(*arguments, writer), daemon=True)
        try:
            handle.start()
        except BaseException:
            reader.close()
            raise
        finally:
            writer.close()
        try:
            return Process(handle, reader, psutil.Process(handle.pid))
        except psutil.NoSuchProcess:
            return Process(handle, reader, None)

    def _ensure_server(self) -> None:
        if ProcessStarter.server is not None and _lives(ProcessStarter.server):
            return
        with warnings.catch_warnings():
            # It says so when it was killed itself; it has nothing to track here.
            warnings.simplefilter("ignore", UserWarning)
            resource_tracker.ensure_running()
        before = set(psutil.Process().children())
        with _inherited_by_the_server():
            forkserver.ensure_running()
        for child in set(psutil.Process().children()) - before:
            self.restarts += ProcessStarter.server is not None
            ProcessStarter.server = child

    def _wait_for_its_end(self) -> None:
        """A killed server closes its doors a moment before the system calls it dead."""
        end = time.monotonic() + 5
        while ProcessStarter.server is not None and _lives(ProcessStarter.server) and time.monotonic() < end:
            time.sleep(0.01)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def _inherited_by_the_server() -> Iterator[None]:
    """What the server and so every worker should be born with.

    Ctrl-C and the like held back, so that they cannot hit a worker before that has set its own handlers; and this
    process's search path, without which the preloading silently does nothing where the command is called from another
    folder.
    """
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
        # Last: a signal that came meanwhile may raise here.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
