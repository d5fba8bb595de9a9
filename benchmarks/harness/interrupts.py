"""Ctrl-C, SIGTERM and a closed terminal: a command ends with one line and the exit code 128 + the number of the signal.

Imports nothing heavy, so that the handlers are there before torch is loaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
LINE = "interrupted"


class Interrupted(KeyboardInterrupt):
    """Raised where a signal arrives."""

    def __init__(self, number: int) -> None:
        super().__init__(LINE)
        self.number = number


class StopSwitch:
    """Turned by a signal, asked between steps."""

    def __init__(self) -> None:
        self.on = False

    def switch(self, *_: object) -> None:
        """From now on it is on."""
        self.on = True

    def __call__(self) -> bool:
        """Whether it is on."""
        return self.on


def exit_code(number: int) -> int:
    """What a shell says of a process that a signal ended."""
    return 128 + number


def leave(number: int, frame: FrameType | None) -> None:
    """End the process at this moment, with the line.

    For when there is nothing to tidy up: while modules are loaded, an exception may be lost or told as another error.
    """
    os.write(2, f"{LINE}\n".encode())
    os._exit(exit_code(number))


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise Interrupted; a second signal does not wait until all is tidied up."""
    set_handlers(leave)
    raise Interrupted(number)


def leave_if_unraisable(told: sys.UnraisableHookArgs) -> None:
    """A ``sys.unraisablehook``: Interrupted that was raised where nobody can catch it (``__del__``) ends the process."""
    if isinstance(told.exc_value, Interrupted):
        leave(told.exc_value.number, None)
    sys.__unraisablehook__(told)


def set_handlers(handler: Handler | signal.Handlers) -> None:
    """Handle all signals so, but for a hang-up that was to be ignored from the start (``nohup``)."""
    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Handle all signals so for a while. The first one puts the handlers from before back, then calls ``handler``."""
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    def first(number: int, frame: FrameType | None) -> None:
        restore()
        handler(number, frame)

    set_handlers(first)
    try:
        yield
    finally:
        restore()
