"""One parser per command: what each takes, and one line for what it does not. Imports nothing heavy."""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from benchmarks.errors import UserError, unknown
from benchmarks.suites import suite_names

EXECUTORS = ("local", "here", "ray")
TRACKERS = ("tensorboard", "mlflow", "wandb")


@dataclass(frozen=True)
class Command:
    """A command as the user sees it."""

    summary: str
    """One line."""
    fill: Callable[[argparse.ArgumentParser], None]
    """Adds what it takes."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        lacking = message.removeprefix("the following arguments are required: ")
        told = message if lacking == message else f"expected {lacking}, found none"
        raise UserError(f"{told} (see {self.prog} --help)")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command, with its name as ``command``. Without a command's name first it is ``run``.

    Raises UserError on bad input; SystemExit after help.
    """
    words = list(arguments)
    if words[:1] in (["--help"], ["-h"]):
        print(_overview())
        raise SystemExit(0)
    name = words.pop(0) if words and words[0] in COMMANDS else "run"
    # Intermixed, since options may come before the suite as well as after it.
    options, rest = _parser(name).parse_known_intermixed_args(words)
    if rest:
        raise UserError(f"{name}: {_refused(name, rest[0].partition('=')[0])}")
    options.command = name
    return options


def options_of(name: str) -> dict[str, str]:
    """Option -> its help, of one command."""
    actions = [action for action in _parser(name)._actions if action.option_strings]
    return {action.option_strings[-1]: action.help or "" for action in actions}


def arguments_of(name: str) -> dict[str, str]:
    """Everything a command takes, as it is written -> its help: words first, ``[in brackets]`` if they may be left out."""
    found = {}
    for action in sorted(_parser(name)._actions, key=lambda action: bool(action.option_strings)):
        place = str(action.metavar or action.dest).upper()
        if not action.option_strings:
            found[f"[{place}]" if action.nargs == "?" else place] = action.help or ""
        elif action.nargs == 0:
            found[", ".join(reversed(action.option_strings))] = action.help or ""
        else:
            found[f"{action.option_strings[-1]} {place}"] = action.help or ""
    return found


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    text = f"{command.summary[0].upper()}{command.summary[1:]}."
    parser = _Parser(prog=f"{_program()} {name}", description=text, allow_abbrev=False)
    command.fill(parser)
    parser.set_defaults(trust=False)
    return parser


def _refused(name: str, option: str) -> str:
    """What is wrong with an argument that a command does not take."""
    if not option.startswith("-"):
        return f"expected no further word, found {option!r}"
    owners = [other for other in COMMANDS if option in options_of(other)]
    if owners:
        return f"expected no {option}, which belongs to {', '.join(owners)}"
    return unknown("option", option, options_of(name))


def _program() -> str:
    """What the user has called."""
    called = Path(sys.argv[0]).name
    return called if called == "mtl-bench" else "run_bench.py"


def _overview() -> str:
    program = _program()
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Compare loss weightings: train identical models under each, log every task's loss, write tables and pictures.",
            "",
            f"usage: {program} [COMMAND] [OPTIONS]      without a command: run; without a suite: quick",
            f"       {program} COMMAND --help           the options of a command",
            "",
            "commands:",
            *lines,
            "",
            f"suites: {', '.join(suite_names())}, or the path of a .yaml file",
            "",
            "exit codes: 0 done; 1 a run failed or a check did not pass; 2 bad input; 3 results cannot be written;",
            "            128 + n ended by signal n (130: Ctrl-C)",
        ]
    )


# ---- values ----------------------------------------------------------------------------------------------------------


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


def _suite(text: str) -> str:
    if text in COMMANDS:
        raise UserError(f"expected the command {text!r} first, found it after other words")
    if not text.endswith((".yaml", ".yml")) and text not in suite_names():
        # The first word may have been meant as a command.
        raise UserError(unknown("command or suite", text, [*COMMANDS, *suite_names()]))
    return text


def _address(text: str) -> str:
    if text in ("auto", "local") or re.fullmatch(r"[^/:]+:\d+|\[[^/]+\]:\d+", text):
        return text
    hint = "; a command is given to a cluster from outside by `ray job submit`" if text.startswith("ray://") else ""
    raise argparse.ArgumentTypeError(f"expected auto, local or HOST:PORT, found {text!r}{hint}")


def _one_of(names: Sequence[str], text: str) -> str:
    if text not in names:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(names)}, found {text!r}")
    return text


# ---- groups of options -----------------------------------------------------------------------------------------------


def _add_suite(parser: argparse.ArgumentParser) -> None:
    suites = f"{', '.join(suite_names())}, or a .yaml file; default: quick"
    parser.add_argument("suite", nargs="?", type=_suite, default="quick", help=suites)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    filters = parser.add_argument_group("which runs of the suite, as comma-separated lists")
    filters.add_argument("--problems", type=_names, help="only these problems")
    filters.add_argument("--weighters", type=_names, help="only these weighters; single_task for the baselines")
    filters.add_argument("--seeds", type=_seeds, help="these seeds instead of the suite's")
    filters.add_argument("--steps", type=_positive, help="this many training steps")
    filters.add_argument(
        "--devices",
        "--device",
        default="cpu",
        dest="devices",
        help="cpu (the default), cuda, cuda:N, or several GPUs as cuda:0-3,6",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    training = parser.add_argument_group("training")
    training.add_argument(
        "--jobs", type=_positive, help="runs side by side; default: as many as there are cores for, or one for each GPU"
    )
    training.add_argument(
        "--per-device", type=_positive, default=1, help="runs that share a GPU; times of such runs are not compared"
    )
    training.add_argument(
        "--executor",
        type=functools.partial(_one_of, EXECUTORS),
        default="local",
        help="local: a process for each run (the default); here: one after the other in this process, for debuggers; "
        "ray: on a cluster",
    )
    training.add_argument(
        "--address",
        type=_address,
        help="of --executor ray: HOST:PORT of a cluster, auto for the one that this machine belongs to, local (the default)",
    )
    training.add_argument(
        "--new-processes", action="store_true", help="of --executor ray: a process of its own for each run"
    )
    training.add_argument(
        "--no-wait", action="store_true", help="leave when all runs that are left are in the hands of other commands"
    )
    training.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def _add_folders(parser: argparse.ArgumentParser, *, plots: bool = True) -> None:
    folders = parser.add_argument_group("folders")
    folders.add_argument("--out", type=Path, default=Path("results"), help="records and tables; default: results")
    if plots:
        folders.add_argument("--plots", type=Path, default=Path("plots"), help="pictures; default: plots")


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust", action="store_true", help="run code (path.py:Class) named in records, or in a suite from another folder"
    )


# ---- commands --------------------------------------------------------------------------------------------------------


def _fill_run(parser: argparse.ArgumentParser) -> None:
    _add_suite(parser)
    _add_filters(parser)
    _add_training(parser)
    _add_folders(parser)
    parser.add_argument(
        "--track", type=functools.partial(_one_of, TRACKERS), help="write the recorded runs to an experiment tracker"
    )
    _add_trust(parser)


def _fill_report(parser: argparse.ArgumentParser) -> None:
    _add_suite(parser)
    _add_filters(parser)
    _add_folders(parser)
    parser.add_argument("--html", action="store_true", help="also one self-contained page, report.html")
    _add_trust(parser)


def _fill_calibrate(parser: argparse.ArgumentParser) -> None:
    _add_suite(parser)
    _add_filters(parser)
    _add_folders(parser, plots=False)
    _add_trust(parser)


def _fill_reproduce(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paper", help="famo, gradnorm, coba or another paper with published numbers")
    _add_filters(parser)
    _add_training(parser)
    _add_folders(parser, plots=False)


def _fill_overhead(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="measure these tables alone, such as steps or adapter_steps; default: all"
    )
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda or cuda:N")
    _add_folders(parser, plots=False)


def _fill_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", help="folder with the records of a suite, or its name in the folder of results")
    parser.add_argument("head", help="another one; compare.md, .csv and .tex are written there")
    _add_folders(parser, plots=False)
    _add_trust(parser)


def _fill_check(parser: argparse.ArgumentParser) -> None:
    _add_suite(parser)
    _add_filters(parser)
    _add_training(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--record", action="store_true", help="write the baseline's replayed weights and stop")
    instead.add_argument("--repetitions", type=_positive, help="measure false alarms over this many repetitions instead")
    parser.add_argument("--against", type=Path, default=Path("results/reference"), help="folder of the baseline")
    parser.add_argument("--junit", type=Path, help="file for the verdicts as JUnit XML")
    parser.add_argument("--out", type=Path, help="folder of the records; default: a new one in results")
    parser.add_argument("--plots", type=Path, default=Path("plots"), help="pictures; default: plots")
    _add_trust(parser)


def _fill_checked(parser: argparse.ArgumentParser, *, what: str) -> None:
    parser.add_argument("checked", metavar=what, help=f"a listed {what}, or path/to/file.py:Class")


def _fill_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results"), help="of a suite or of suites")


def _fill_migrate(parser: argparse.ArgumentParser) -> None:
    _fill_folder(parser)
    _add_trust(parser)


COMMANDS: Mapping[str, Command] = {
    "run": Command("train what a suite still lacks, then tables and pictures", _fill_run),
    "report": Command("tables and pictures again from the records, without training", _fill_report),
    "reproduce": Command("a paper's published numbers beside ours, and its claims as checks", _fill_reproduce),
    "compare": Command("what changed between two folders of records, for a pull request", _fill_compare),
    "check": Command("whether a method got worse than recorded results: weights, quality, cost", _fill_check),
    "check-weighter": Command(
        "whether a method of your own keeps the contract and its claims", functools.partial(_fill_checked, what="method")
    ),
    "check-problem": Command(
        "whether a problem of your own keeps the contract", functools.partial(_fill_checked, what="problem")
    ),
    "calibrate": Command("how often the comparison finds a difference where there is none (suite aa)", _fill_calibrate),
    "overhead": Command("what a step costs under each weighter, beside hand-written PyTorch", _fill_overhead),
    "migrate": Command("records of an older form get today's form and key, without training", _fill_migrate),
    "pack": Command("the runs of every suite as two files instead of a folder each", _fill_folder),
    "unpack": Command("packed runs as folders again", _fill_folder),
}
