"""``run_bench.py`` and ``mtl-bench``: one command, its exit code, and every failure as one line."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

# Nothing heavy before the handlers of signals are set: the commands bring torch along.
from benchmarks.cli.parsers import parse
from benchmarks.errors import StorageError, UserError
from benchmarks.harness import interrupts

COMMANDS = "benchmarks.cli.commands"
OWN_PACKAGES = {"benchmarks", "weighting"}
"""A module missing in these is a fault of ours. Others come with an installation, which may be that of the methods alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. arguments: without the program's name; None: those of the process.

    Returns 0, 1 when a run failed or a check did not pass, 2 for bad input, 3 for results that cannot be written, 128 + the
    number of a signal that ended it: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal.
    """
    return _told(lambda: _command(sys.argv[1:] if arguments is None else arguments)())


def run() -> int:
    """``main`` as a process of its own, which a signal may end at any time."""
    interrupts.set_handlers(interrupts.leave)
    sys.unraisablehook = interrupts.leave_if_unraisable
    command: Callable[[], int] | None = None

    def load() -> int:
        nonlocal command
        command = _command(sys.argv[1:])
        return 0

    # What is imported is no garbage: the collector would go through all of it again and again, and once more at the end.
    gc.disable()
    code = _told(load)
    gc.freeze()
    gc.enable()
    if command is None:
        return code
    try:
        interrupts.set_handlers(interrupts.interrupt)
        code = _told(command)
        # All is done: a signal while Python itself ends changes nothing, unless workers are still being waited for.
        interrupts.set_handlers(interrupts.leave if code > interrupts.exit_code(0) else signal.SIG_IGN)
    except interrupts.Interrupted as error:
        # Just before or after the command.
        print(error, file=sys.stderr)
        return interrupts.exit_code(error.number)
    # Python's end gives everything back to the system without looking for cycles in it.
    gc.freeze()
    return code


def _command(arguments: Sequence[str]) -> Callable[[], int]:
    """What is to be done. Raises UserError, and SystemExit after help."""
    options = parse(arguments)
    commands = importlib.import_module(COMMANDS)
    return functools.partial(commands.carry_out, options)


def _told(act: Callable[[], int]) -> int:
    """The exit code of what is done; a failure is told in one line."""
    try:
        code = act()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"error: {error}; everything that was finished is kept", file=sys.stderr)
        return 3
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OWN_PACKAGES:
            raise
        print(f"error: expected {error.name}, not found: pip install 'mtl-weighting[bench]'", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`).
        _close_output()
        return 0
    except OSError as error:
        # The commands know what they read and write; what is left is the output itself, into a file on a full disk.
        place = error.filename or "the output"
        print(f"error: {place}: {error.strerror or error}; everything that was finished is kept", file=sys.stderr)
        _close_output()
        return 3
    except KeyboardInterrupt as error:
        print(interrupts.LINE, file=sys.stderr)
        return interrupts.exit_code(error.number if isinstance(error, interrupts.Interrupted) else signal.SIGINT)


def _close_output() -> None:
    """Python's own last flush must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
