"""Compare loss weightings: train identical models under each, log every task's loss, write tables and pictures.

python run_bench.py                     the quick suite
python run_bench.py full                another suite, or the path of a .yaml file
python run_bench.py report quick        tables and pictures again from the records, without training
python run_bench.py report quick --html   the same as one page that opens without a network
python run_bench.py calibrate aa         how often the comparison finds a difference where there is none
python run_bench.py cost                what a step costs under each weighter, beside hand-written PyTorch
python run_bench.py compare BASE HEAD   what changed between two folders of records, for a pull request
python run_bench.py check quick         whether a method got worse than the recorded results: weights, quality, cost
python run_bench.py check-weighter mine.py:Class      whether a method of your own keeps the contract and its claims
python run_bench.py check-problem mine.py:Class       whether a problem of your own keeps the contract
python run_bench.py migrate results     records of an older form get today's form and key, without training
python run_bench.py reproduce famo      a paper's published numbers beside ours, and its claims as checks
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.errors import StorageError, UserError, unknown

# Nothing heavy before the handlers of signals are set: what is imported in functions brings torch along.
from benchmarks.harness import interrupts

CHECKED = {"check-weighter": "method", "check-problem": "problem"}
"""Command -> what it holds to its contract."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cli import commands
    from benchmarks.planning.suite import suite_names
    from benchmarks.records.tracking import PACKAGES

    parser = _Parser(
        prog="run_bench.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="command or suite",
        help=f"{', '.join(commands.COMMANDS)} (run if none); then {', '.join(suite_names())} or a .yaml file",
    )
    filters = parser.add_argument_group("filters, as comma-separated lists")
    filters.add_argument("--problems", type=_names, help="only these problems of the suite")
    filters.add_argument("--weighters", type=_names, help="only these weighters; single_task for the baselines")
    filters.add_argument("--seeds", type=_seeds, help="these seeds instead of the suite's")
    filters.add_argument("--steps", type=_positive, help="this many training steps")
    parser.add_argument("--jobs", type=_positive, help="runs side by side; default: the number of cores")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda or cuda:N")
    parser.add_argument(
        "--out", type=Path, help="folder of the records and tables; default: results, of check a new one in it"
    )
    parser.add_argument("--plots", type=Path, default=Path("plots"), help="folder of the pictures")
    parser.add_argument("--track", choices=list(PACKAGES), help="write the recorded runs to an experiment tracker")
    parser.add_argument("--html", action="store_true", help="with report: also one self-contained page, report.html")
    check = parser.add_argument_group("check")
    check.add_argument("--against", type=Path, default=Path("results/reference"), help="folder of the baseline")
    check.add_argument("--junit", type=Path, help="file for the verdicts as JUnit XML")
    check.add_argument("--repetitions", type=_positive, help="measure false alarms over this many repetitions instead")
    check.add_argument("--record", action="store_true", help="write the baseline's replayed weights and stop")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected at least one name, found none")
    return names


def _seeds(text: str) -> list[int]:
    if not all(name.isdecimal() for name in _names(text)):
        raise argparse.ArgumentTypeError(f"expected integers >= 0, separated by commas, found {text!r}")
    return [int(name) for name in _names(text)]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, found {text!r}")
    return int(text)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with ``command`` and ``suite`` filled in. Raises UserError."""
    from benchmarks.cli import commands
    from benchmarks.planning.suite import suite_names

    parser = _parser()
    # Intermixed, since options may come before the suite as well as after it.
    options, rest = parser.parse_known_intermixed_args(arguments)
    if rest:
        known = [name for name in parser.format_usage().replace("[", " ").replace("]", " ").split() if name[:2] == "--"]
        raise UserError(unknown("option", rest[0].partition("=")[0], known))
    words = list(options.words)
    options.command = words.pop(0) if words and words[0] in commands.COMMANDS else "run"
    if options.out is None and options.command != "check":
        options.out = Path("results")
    if options.command == "compare":
        if len(words) != 2:
            raise UserError(f"compare: expected two folders of records, found {' '.join(words) or 'none'}")
        options.base, options.head = words
        return options
    if options.command == "migrate":
        if len(words) > 1:
            raise UserError(f"migrate: expected one folder at most, found {' '.join(words)}")
        options.folder = Path(words.pop()) if words else Path("results")
        return options
    if options.command in CHECKED:
        if len(words) != 1:
            what = f"one {CHECKED[options.command]} as path/to/file.py:Class"
            raise UserError(f"{options.command}: expected {what}, found {' '.join(words) or 'none'}")
        options.checked = words.pop()
        return options
    if options.command == "reproduce":
        if len(words) != 1:
            raise UserError(f"reproduce: expected one paper, found {' '.join(words) or 'none'}")
        options.paper = words.pop()
        return options
    options.suite = words.pop(0) if words else "quick"
    if not options.suite.endswith((".yaml", ".yml")) and options.suite not in suite_names():
        raise UserError(unknown("command or suite", options.suite, [*commands.COMMANDS, *suite_names()]))
    if words:
        raise UserError(f"expected one command and one suite, found also {' '.join(words)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns 0, 1 when a run failed, 2 for bad input, 3 for results that cannot be written, 128 + the number of a signal that
    ended it: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal.
    """
    try:
        from benchmarks.cli import commands

        options = _parse(arguments)
        code = commands.COMMANDS[options.command](options)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"error: {error}; everything that was finished is kept", file=sys.stderr)
        return 3
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


def run() -> int:
    """``main`` as a process of its own, which a signal may end at any time."""
    interrupts.set_handlers(interrupts.leave)
    sys.unraisablehook = interrupts.leave_if_unraisable
    importlib.import_module("benchmarks.cli.commands")
    try:
        interrupts.set_handlers(interrupts.interrupt)
        code = main()
        # All is done: a signal while Python itself ends changes nothing, unless workers are still being waited for.
        interrupts.set_handlers(interrupts.leave if code > interrupts.exit_code(0) else signal.SIG_IGN)
    except interrupts.Interrupted as error:
        # Just before or after the command.
        print(error, file=sys.stderr)
        return interrupts.exit_code(error.number)
    return code
