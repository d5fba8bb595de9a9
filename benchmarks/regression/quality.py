"""The second gate: a method's test metrics, against those of the baseline's runs of the same seeds.

What is compared is the relative change of each primary metric in percent (positive: worse), meaned over the metrics of a
run. A method fails where all of these hold:

1. the mean change over the seeds is above ``FACTOR`` percent;
2. it is above ``NOISES`` standard errors of a difference between two groups of seeds, estimated from the baseline's own
   spread over seeds: of the method or pooled over all methods of the problem, whichever is larger;
3. the seeds agree: with 6 pairs and more the sign-flip test of ``benchmarks.analysis.paired`` gives p < 0.05; with fewer,
   where no such p exists, every single pair is worse.

The second condition treats the groups as if they were not paired. A change that does no harm may still send every run on
another path, after which equal seeds share little. The false alarms of this rule are measured by
``benchmarks.regression.false_alarms``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.delta_m import changes_percent, over_metrics, values_on_test
from benchmarks.analysis.verdict import Judged
from benchmarks.analysis.verdict import judge as judge_pairs
from benchmarks.records.schema import Floats, Run
from benchmarks.regression.baseline import Methods, Seeds, finished
from benchmarks.regression.gate_result import GateResult

GATE = "quality"
FACTOR = 2.0
"""Percent."""
NOISES = 4.0
MIN_SEEDS = 2
"""Below, the baseline has no spread to judge by."""


@dataclass(frozen=True)
class Judgement:
    """The rule on one method's pairs."""

    worse: bool
    judged: Judged
    """Of the changes in percent, positive: worse, as a comparison of its own."""
    worse_pairs: int
    allowed: float
    """What the mean had to exceed, percent."""


def judge(problem: str, label: str, base: Methods, there: str, head: Seeds) -> GateResult:
    """The verdict on one method, from its runs and the baseline's runs of all methods, where it is called ``there``."""
    before, after = finished(base[there]), finished(head)
    broken = [run for seed, run in sorted(head.items()) if seed in before and seed not in after]
    if broken:
        record = broken[0].record
        at = "" if record.failed_step is None else f" at step {record.failed_step}"
        reason = f"seed {broken[0].seed}: {record.state.replace('_', ' ')}{at}, finished in the baseline: {record.reason}"
        return GateResult(GATE, problem, label, "failed", reason, math.inf)
    seeds = [seed for seed in before if seed in after]
    changes = percent(np.stack([values(before[s]) for s in seeds]), [after[s] for s in seeds]) if seeds else np.zeros(0)
    if np.isfinite(changes).sum() < MIN_SEEDS:
        reason = f"{len(seeds)} pair{'s' * (len(seeds) != 1)} of finished runs with a change in percent, {MIN_SEEDS} needed"
        return GateResult(GATE, problem, label, "not judged", reason)
    found = rule(changes, noise(base, there))
    return GateResult(GATE, problem, label, "failed" if found.worse else "ok", _reason(found), found.judged.found.mean)


def rule(changes: Floats, spread: float) -> Judgement:
    """The three conditions. changes: ``(n,)`` percent by seed, positive: worse; spread: standard deviation over seeds."""
    (judged,) = judge_pairs([changes])
    error = spread * math.sqrt(2 / judged.found.pairs)
    allowed = max(FACTOR, NOISES * error)
    worse = seeds_agree(judged) and judged.found.mean > allowed
    return Judgement(worse, judged, int((changes > 0).sum()), allowed)


def seeds_agree(judged: Judged) -> bool:
    """The third condition."""
    return judged.verdict == "worse" or (judged.verdict == "too few to test" and judged.found.improvement == 0)


def noise(base: Methods, label: str) -> float:
    """Standard deviation over seeds in percent: the method's own or that pooled over all methods, the larger one."""
    groups = {name: [values(run) for run in finished(seeds).values()] for name, seeds in base.items()}
    infos = {name: _higher(next(iter(seeds.values()))) for name, seeds in base.items()}
    return pooled({name: (np.stack(rows), infos[name]) for name, rows in groups.items() if len(rows) >= MIN_SEEDS}, label)


def pooled(groups: dict[str, tuple[Floats, Sequence[bool]]], label: str) -> float:
    """As ``noise``, from label -> (primary metrics ``(n, M)``, which of them are better when higher)."""
    variances = {}
    for name, (rows, higher) in groups.items():
        deviations = over_metrics(changes_percent(rows, rows.mean(axis=0), higher))
        variances[name] = float(deviations.var(ddof=1))
    known = [variance for variance in variances.values() if math.isfinite(variance)]
    own = variances.get(label, math.nan)
    return math.sqrt(max(float(np.mean(known)) if known else 0.0, own if math.isfinite(own) else 0.0))


def values(run: Run) -> Floats:
    """The primary test metrics of a run, ``(M,)``."""
    return values_on_test(run, [info for info in run.record.metric_infos if info.primary])


def percent(before: Floats, after: Sequence[Run]) -> Floats:
    """Mean change of the primary metrics, ``(n,)`` percent, positive: worse. before: ``(n, M)``."""
    return over_metrics(changes_percent(np.stack([values(run) for run in after]), before, _higher(after[0])))


def _higher(run: Run) -> list[bool]:
    return [info.higher_is_better for info in run.record.metric_infos if info.primary]


def _reason(found: Judgement) -> str:
    pairs = found.judged.found
    how = f"p = {found.judged.p_value:.3g}, {pairs.test}"
    if math.isnan(found.judged.p_value):
        how = f"worse on {found.worse_pairs} of {pairs.pairs} seeds"
    return (
        f"metrics changed by {pairs.mean:+.2f} % [{pairs.low:+.2f}, {pairs.high:+.2f}], positive: worse, allowed "
        f"{found.allowed:.2f} %: {found.judged.words}; {how}"
    )
