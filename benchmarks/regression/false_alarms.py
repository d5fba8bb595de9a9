"""How often ``check`` fails code that did not change: ``run_bench.py check --repetitions 20``.

All methods of the suite ``quick`` are trained on multidigits, for ``STEPS`` steps, on many groups of fresh seeds. Each group
then stands once for the baseline and once for the present run against every other one, as if both had the same seeds. That
is harder on the gates than reality: a run of the same code with the same seeds gives the same metrics to the last bit, and
one after a harmless change still shares initial parameters and batches.

Writes ``check/calibration.md`` in the folder of the baseline; the runs themselves are kept in ``FOLDER``, so that a stopped
calibration goes on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.analysis.table import Column, Table
from benchmarks.planning.plan import Filters, Plan, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.records.files import write
from benchmarks.records.schema import Run
from benchmarks.regression import quality, step_cost
from benchmarks.regression.baseline import Methods, RecordSet
from benchmarks.report.formatting import markdown_rows

STEPS = 150
SEEDS = 3
"""In a group, as in ``quick``."""
PROBLEM = "multidigits"
NOISES = (0.0, 1.0, 2.0, 3.0, quality.NOISES, 5.0)
FACTORS = (1.25, step_cost.FACTOR, 1.75, 2.0)
FOLDER = Path("results") / "check" / "calibration"


@dataclass(frozen=True)
class GroupComparison:
    """One method in one comparison of two groups."""

    seeds: int
    groups: tuple[int, int]
    method: str
    change: float
    """Percent, positive: worse."""
    standard_errors: float
    """The change in standard errors of the gate's second condition."""
    agree: bool
    """The gate's third condition."""
    cost: float
    """s/step relative to uniform by that of the baseline."""

    def fails(self, noises: float) -> bool:
        """Whether the quality gate fails, with another number of standard errors."""
        return self.agree and self.change > quality.FACTOR and self.standard_errors > noises


def plan_of(repetitions: int) -> Plan:
    """The runs of a calibration: one group of seeds more than repetitions."""
    file = read_suite("quick")
    seeds = list(range(SEEDS * (repetitions + 1)))
    return make_plan(file, Filters([PROBLEM], [entry.name for entry in file.suite.weighters], seeds, STEPS), "cpu")


def write_calibration(records: RecordSet, repetitions: int, folder: Path) -> str:
    """Compare all groups and write the table. Returns it. Raises OSError."""
    (methods,) = records.by_conditions.values()
    rows = [row for size in (SEEDS, 2 * SEEDS) for row in compare_groups(methods, size)]
    text = page(rows, repetitions, records.runs[0])
    write(folder / "calibration.md", text)
    return text


def compare_groups(methods: Methods, size: int) -> list[GroupComparison]:
    """Every ordered pair of groups of ``size`` seeds, every method."""
    seeds = sorted(next(iter(methods.values())))
    groups = [_renumbered(methods, seeds[start : start + size]) for start in range(0, len(seeds) - size + 1, size)]
    rows = []
    for first, second in itertools.permutations(range(len(groups)), 2):
        base, head = groups[first], groups[second]
        for method in methods:
            before = np.stack([quality.values(run) for run in base[method].values()])
            spread = quality.noise(base, method)
            judged = quality.rule(quality.percent(before, list(head[method].values())), spread)
            error = spread * (2 / size) ** 0.5
            ratio = step_cost.relative(head, method) / step_cost.relative(base, method)
            mean = judged.judged.found.mean
            agree = quality.seeds_agree(judged.judged)
            rows.append(GroupComparison(size, (first, second), method, mean, mean / error, agree, ratio))
    return rows


def page(rows: Sequence[GroupComparison], repetitions: int, run: Run) -> str:
    """The Markdown page."""
    by_size = {size: [row for row in rows if row.seeds == size] for size in (SEEDS, 2 * SEEDS)}
    alarms = {
        "quality": lambda row: row.fails(quality.NOISES),
        "cost": lambda row: row.cost > step_cost.FACTOR,
        "either": lambda row: row.fails(quality.NOISES) or row.cost > step_cost.FACTOR,
    }
    by_noises = {f"{noises:g}": (lambda row, noises=noises: row.fails(noises)) for noises in NOISES}
    by_factor = {f"{factor:g}": (lambda row, factor=factor: row.cost > factor) for factor in FACTORS}
    machine = ", ".join(f"{name} {value}" for name, value in run.record.machine.items())
    return "\n".join(
        [
            "# False alarms of `check`",
            "",
            f"{PROBLEM}, {STEPS} steps, {repetitions + 1} groups of {SEEDS} fresh seeds each, the same code: every group "
            f"against every other one. Gates: change above {quality.FACTOR:g} % and {quality.NOISES:g} standard errors, "
            f"seeds agree; cost above {step_cost.FACTOR:g} times. Checks with at least one alarm, of so many:",
            "",
            _alarms(by_size, alarms),
            "",
            f"Single verdicts ({len(dict.fromkeys(row.method for row in rows))} methods in each check):",
            "",
            _alarms(by_size, alarms, whole=False),
            "",
            "Checks with an alarm of the quality gate, by the number of standard errors:",
            "",
            _alarms(by_size, by_noises),
            "",
            "Checks with an alarm of the cost gate, by the factor:",
            "",
            _alarms(by_size, by_factor),
            "",
            f"Spread between two groups of {SEEDS} seeds:",
            "",
            _spread(by_size[SEEDS]),
            "",
            f"Trained by commit {run.record.commit}, {machine}.",
            "",
        ]
    )


def _alarms(
    by_size: Mapping[int, list[GroupComparison]],
    alarms: Mapping[str, Callable[[GroupComparison], bool]],
    *,
    whole: bool = True,
) -> str:
    """A row for each number of seeds, a column for each kind of alarm. whole: of checks, instead of single verdicts."""
    rows = []
    for size, own in by_size.items():
        row: dict[str, object] = {"seeds": size}
        for name, alarm in alarms.items():
            found = [row for row in own if alarm(row)]
            number, of = (len({row.groups for row in each}) if whole else len(each) for each in (found, own))
            row[name] = f"{number} of {of} ({100 * number / of:.1f} %)"
        rows.append(row)
    shown = (Column("seeds", "seeds", decimals=0), *(Column(name, name, right=True) for name in alarms))
    return markdown_rows(Table("alarms", "Alarms", "", shown, pd.DataFrame(rows)))


def _spread(found: Sequence[GroupComparison]) -> str:
    rows = []
    for method in dict.fromkeys(row.method for row in found):
        own = [row for row in found if row.method == method]
        row: dict[str, object] = {"method": method}
        for name, values in (("change", [row.change for row in own]), ("cost", [row.cost for row in own])):
            row |= {f"{name}_95": np.quantile(values, 0.95), f"{name}_most": max(values)}
        rows.append(row)
    shown = (
        Column("method", "method"),
        Column("change_95", "change %, 95th percentile", decimals=2),
        Column("change_most", "largest", decimals=2),
        Column("cost_95", "s/step ratio, 95th percentile", decimals=2),
        Column("cost_most", "largest", decimals=2),
    )
    return markdown_rows(Table("spread", "Spread", "", shown, pd.DataFrame(rows)))


def _renumbered(methods: Methods, seeds: Sequence[int]) -> dict[str, dict[int, Run]]:
    """The runs of some seeds, numbered from 0 as if they were the same as any other group's."""
    return {label: {number: runs[seed] for number, seed in enumerate(seeds)} for label, runs in methods.items()}
