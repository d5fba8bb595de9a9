"""Writes the blocks of pages that stand between markers: numbers of the reference, options of commands.

``make readme`` runs it. A block stands between ``<!-- begin NAME -->`` and ``<!-- end -->``; NAME is a function here.
"""

from __future__ import annotations

import csv
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.analysis.paired import LEVEL
from benchmarks.cli import parsers

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/results.md", "docs/cli.md", "docs/finetuning.md", "docs/methods/coba.md")
REFERENCE = ROOT / "results" / "reference"
BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
QUICK = ("code_lm", "multidigits")
"""The problems of the suite quick."""
FULL = ("code_lm", "multidigits", "gradnorm_toy", "famo_toy")
TIMED = FULL[:1]
"""The problems of the suite full, and those whose steps are long enough to be timed two at a time."""
DASH = "\N{EN DASH}"
DELTA = "delta_m_over_metrics"
PRICE = "price_of_one_checkpoint"
ADAPTIVE = ("gradnorm", "lbtw", "famo")
TUNED = (("fair", "multidigits"), ("reproduce_coba", "code_lm"))
"""Where all are tuned, by suite and problem."""
PAPERS = ("famo", "gradnorm", "coba")

WIDTH = 140
"""Of a paragraph of a page."""

HELP = "--help, -h"
"""Every command has it."""

Row = dict[str, str]


def fill(page: str) -> str:
    """The page with its blocks as they should be. Raises KeyError on a block that nothing here writes."""
    return BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]()}\n{found[3]}", page)


# ---- numbers of the reference ----------------------------------------------------------------------------------------


def quick() -> str:
    """What ``make bench`` ends with, in one row per method."""
    rows = {problem: _by_method(f"quick/tables/{problem}_overview.csv") for problem in QUICK}
    verdicts = {problem: _by_method(f"quick/tables/{problem}_verdict.csv") for problem in QUICK}
    methods = list(rows[QUICK[0]])

    def cells(method: str) -> Iterable[str]:
        yield f"`{method}`"
        for problem in QUICK:
            row = rows[problem][method]
            yield _with_error(row, DELTA)
            yield _seeds_better(verdicts[problem][method]) if method in verdicts[problem] else ""
            yield _number(row["relative_seconds"], 2)

    heads = [cell for problem in QUICK for cell in (f"`{problem}`: Δm %", "better", "s/step")]
    return _table(["method", *heads], [list(cells(method)) for method in methods], ":" + "r" * 6)


def everywhere() -> str:
    """Every method at its defaults on every problem of the suite full; with the cost of a step, where it is compared."""
    rows = {problem: _by_method(f"full/tables/{problem}_overview.csv") for problem in FULL}
    costs = {problem: _costs("full", problem) for problem in TIMED}
    methods = dict.fromkeys(method for found in rows.values() for method in found)

    def cells(method: str) -> Iterable[str]:
        yield f"`{method}`"
        for problem in FULL:
            row = rows[problem].get(method)
            yield _with_error(row, DELTA) if row else DASH
            if problem in costs:
                yield _number(costs[problem].get(method, ""), 2)

    heads = [cell for problem in FULL for cell in [f"`{problem}`: Δm %", *(["s/step"] if problem in costs else [])]]
    return _table(["method", *heads], [list(cells(method)) for method in methods], ":" + "r" * len(heads))


def better() -> str:
    """Who is better than uniform weights, and than constants, once everybody is tuned, and at what cost, in words."""
    text = (
        "**Shown better**, all tuned by equally many trials (in parentheses: a step over a "
        f"uniform one). {' '.join(_shown_better(suite, problem) for suite, problem in TUNED)}"
    )
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _shown_better(suite: str, problem: str) -> str:
    costs = _costs(suite, problem)
    uniform, static = (_by_method(f"{suite}/tables/{problem}_verdict_tuned{suffix}.csv") for suffix in ("", "_static"))
    rows = [*uniform.values(), *static.values()]
    pairs = " or ".join(sorted({row["pairs"] for row in rows}))
    tested = not any(row["verdict"].endswith("too few to test") for row in rows)
    ahead = "better" if tested else f"{pairs} of {pairs} better; too few to test"
    over_uniform, over_static = (
        [name for name, row in table.items() if row["verdict"] == ahead] for table in (uniform, static)
    )
    both = [f"`{name}` ({_number(costs[name], 2)})" for name in over_uniform if name in over_static]
    than = "than tuned `uniform` and `static`" + ("" if tested else " on every seed, too few for a test")
    alone = _names([name for name in over_uniform if name not in over_static])
    return f"On `{problem}`, {pairs} seeds, {than}: {', '.join(both) or 'none'}; than `uniform` alone: {alone}."


def _costs(suite: str, problem: str) -> dict[str, str]:
    """A step of each method over a uniform one: of the suite's runs, or else as ``overhead`` measures it."""
    measured = {
        row["method"]: row["uniform = 1"] for row in _read("overhead/gramian_steps.csv") if row["problem"] == problem
    }
    runs = _by_method(f"{suite}/tables/{problem}_overview.csv")
    return {name: row["relative_seconds"] or measured.get(name, "") for name, row in runs.items()}


def finetune() -> str:
    """What ``make finetune`` ends with."""
    rows = [
        [f"`{method}`", _with_error(row, DELTA), f"{100 * float(row[PRICE]):.1f}", _number(row["relative_seconds"], 2)]
        for method, row in _by_method("finetune/tables/finetune_lm_overview.csv").items()
    ]
    return _table(["method", "Δm %", "price of one checkpoint, %", "s/step"], rows, ":rrr")


def terminal() -> str:
    """The table of the suite quick, as the terminal shows it."""
    return "```\n" + (REFERENCE / "quick" / "summary.txt").read_text(encoding="utf-8").strip() + "\n```"


def fair() -> str:
    """Defaults and tuned settings over ten seeds."""
    against = [_by_method(f"fair/tables/multidigits_verdict_tuned{suffix}.csv") for suffix in ("", "_static")]
    costs = _costs("fair", "multidigits")
    rows = [
        [
            f"`{method}`",
            _with_error(row, "default"),
            _with_error(row, "tuned"),
            *(_judged(verdicts[method]) if method in verdicts else "" for verdicts in against),
            _number(costs[method], 2),
        ]
        for method, row in _by_method("fair/tables/multidigits_tuned.csv").items()
    ]
    return _table(["method", "default", "tuned", "against tuned uniform", "against tuned static", "s/step"], rows, ":rr::r")


def _judged(row: Row) -> str:
    return f"{_with_error(row, 'change')}, {row['verdict']}"


def tuning() -> str:
    """What tuning itself does."""
    rows = _by_method("fair/tables/multidigits_tuned.csv")
    worse = [name for name, row in rows.items() if row["verdict"] == "worse"]
    change = float(rows["uniform"]["change"])
    return (
        f"Tuning changes uniform weights by {change:.1f} points of Δm where both are held against tuned single tasks.\n"
        "Settings are chosen by validation losses, whose lowest need not come with the best test metrics:\n"
        f"worse than at its default is {_names(worse)}."
    )


def claims() -> str:
    """The claims of papers and what became of them here."""
    rows = [[f"`{paper}`", f"`{on}`", claim, verdict] for paper in PAPERS for on, claim, verdict, *_ in _claims(paper)]
    return _table(["paper", "problem", "claim", "here"], rows, "::::")


def coba() -> str:
    """What holds of CoBa, where and with which setting."""
    fine, scratch = (_of_coba(problem) for problem in ("finetune_lm", "code_lm"))
    batches = ("", "_validation_batches_8")
    one, eight = (_by_method(f"coba_ablation/tables/code_lm{number}_overview.csv") for number in batches)
    short, usual = (f"coba[{{}}window={window}]" for window in (100, 500))
    cost = {
        rival: _pair(numbers) for claim, numbers in fine.items() for rival in ADAPTIVE if claim.endswith(f"one of {rival}.")
    }
    text = (
        "**Fine-tuning** a pretrained model on five small tasks (`finetune_lm`, 5 seeds), CoBa by its authors' advice "
        f"{_best(fine)}; {_checkpoint(fine)}, and a step takes {cost['famo'][0]:.2f} of a uniform one "
        f"(FAMO {cost['famo'][1]:.2f}, GradNorm {cost['gradnorm'][1]:.2f}, LBTW {cost['lbtw'][1]:.2f}). "
        f"**From scratch** (`code_lm`, 8 seeds, warm-up 100, window 500) it {_best(scratch)}. "
        "**The window decides**: in 600 steps of `code_lm` one of 100 makes the weights swing (Δm "
        f"{_with_error(one[short.format('warmup=20, ')], DELTA)}, with eight times the validation batch "
        f"{_with_error(eight[short.format('')], DELTA)}), one of 500 does not "
        f"({_with_error(one[usual.format('warmup=20, ')], DELTA)} and {_with_error(eight[usual.format('')], DELTA)}; "
        f"uniform: {_with_error(one['uniform'], DELTA)})."
    )
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _of_coba(problem: str) -> dict[str, str]:
    """Claim -> numbers, on one of the two problems."""
    return {claim: numbers for on, claim, _, numbers, *_ in _claims("coba") if on == problem}


def _best(claims: dict[str, str]) -> str:
    claim, numbers = next(pair for pair in claims.items() if pair[0].startswith("CoBa by its authors' advice ends"))
    rival = claim.partition(" than ")[2].partition(",")[0].replace("\\", "")
    drawn = re.fullmatch(r"uniform\[sampling=(.*)\]", rival)
    named = f"`{rival}`" if drawn is None else f"uniform weights with `sampling: {drawn[1]}`"
    own, other = _pair(numbers)
    return f"ends at {own:.4f} bits per byte, the best of its rivals, {named}, at {other:.4f} ({_established(numbers)})"


def _checkpoint(claims: dict[str, str]) -> str:
    numbers = claims["One checkpoint costs CoBa's tasks less than under uniform."]
    own, uniform = (100 * number for number in _pair(numbers))
    return f"one checkpoint costs its tasks {own:.2f} % of their lowest losses, {uniform:.2f} % under uniform"


def _pair(numbers: str) -> tuple[float, float]:
    own, other = numbers.partition(";")[0].split(" against ")
    return float(own), float(other)


def _established(numbers: str) -> str:
    """What the test says of a difference."""
    found = re.search(r"p = ([0-9.e-]+)", numbers)
    if found is None:
        return "too few seeds for a test"
    return f"p = {found[1]}" if float(found[1]) < LEVEL else f"not established, p = {found[1]}"


def gradnorm() -> str:
    """The sums on which GradNorm's claim hangs."""
    against_uniform = {claim: numbers for _, claim, _, numbers, *_ in _claims("gradnorm") if "uniform" in claim}
    pairs = {claim: numbers.partition(";")[0].split(" against ") for claim, numbers in against_uniform.items()}
    kept, written = (next(pairs[claim] for claim in pairs if rule in claim) for rule in ("kept at", "as it is written"))
    return (
        f"Kept at or above 0.001, the weights end at a summed relative loss of {kept[0]}; by the rule as it is written at "
        f"{written[0]};\nuniform weights end at {kept[1]}."
    )


def errors() -> str:
    """How often the comparison errs."""
    rows = [
        [row["pairs"], *(_number(row[key], digits) for key, digits in (("false", 1), ("covered", 1), ("power1.0", 0)))]
        for row in _read("aa/tables/multidigits_calibration.csv")
    ]
    return _table(["pairs", "false positives %", "95 % interval covers 0, %", "power % at 1 sd"], rows, "rrrr")


# ---- the command line ------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with what it takes."""
    return "\n\n".join(_command(name, command.summary) for name, command in parsers.COMMANDS.items())


def _command(name: str, summary: str) -> str:
    rows = [[f"`{word}`", _escaped(text)] for word, text in parsers.arguments_of(name).items() if word != HELP]
    return f"### {name}\n\n{summary[0].upper()}{summary[1:]}.\n\n{_table(['argument', 'what it says'], rows, '::')}"


# ---- arithmetic of cells ---------------------------------------------------------------------------------------------


def _read(name: str) -> list[Row]:
    with (REFERENCE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _by_method(name: str) -> dict[str, Row]:
    return {row["method"]: row for row in _read(name)}


def _claims(paper: str) -> list[list[str]]:
    """Problem, claim, verdict, numbers and criterion of each row of a reproduction."""
    page = (REFERENCE / f"reproduce_{paper}" / "reproduce.md").read_text(encoding="utf-8")
    found = []
    for part in page.split("### Claims as checks: ")[1:]:
        problem, _, after = part.partition("\n")
        lines = after.split("| claim | verdict | numbers | criterion |")[1].splitlines()[2:]
        rows = itertools.takewhile(str.strip, lines)
        found += [[problem, *(cell.strip() for cell in line.strip("|").split(" | "))] for line in rows]
    return found


def _number(text: str, digits: int) -> str:
    return f"{float(text):.{digits}f}" if text else DASH


def _with_error(row: Row, key: str) -> str:
    """Without an error where there is one seed."""
    error = row[f"{key}.se"]
    return f"{float(row[key]):.1f} ± {float(error):.1f}" if error else f"{float(row[key]):.1f}"


def _seeds_better(row: Row) -> str:
    return row["verdict"].partition(" better")[0] if " of " in row["verdict"] else row["verdict"]


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) if names else "none"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> str:
    """alignment: ``r`` for a column of numbers, anything else for words."""
    rules = ["---:" if kind == "r" else "---" for kind in alignment]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows))


BLOCKS: dict[str, Callable[[], str]] = {
    block.__name__: block
    for block in (quick, everywhere, better, finetune, terminal, fair, tuning, claims, coba, gradnorm, errors, commands)
}


def main() -> None:
    """Write what differs."""
    for name in PAGES:
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        filled = fill(page)
        if filled != page:
            path.write_text(filled, encoding="utf-8")
            print(f"written: {name}")


if __name__ == "__main__":
    main()
