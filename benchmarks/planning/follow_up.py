"""What a fair comparison trains after the first runs are known: tuned settings and frozen weights.

Tuned: for every method, and for every single-task baseline, the trial with the lowest validation score is trained on the
seeds of the comparison; the tuning seed is none of them, and test has no say. Frozen: every adaptive method's weights,
averaged over time, are trained with as constants, run by run (Gama and Grassi, arXiv:2505.10347; GradNorm's own "static"
row, arXiv:1711.02257, Table 1).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.planning.frozen import frozen_run
from benchmarks.planning.plan import Plan
from benchmarks.planning.tuned import tuned_runs
from benchmarks.records.reading import read_all
from benchmarks.records.schema import TRIAL_ROLES, Run, RunSpec


def follow_up(plan: Plan, suite_folder: Path) -> list[RunSpec]:
    """The runs that the records of the plan's runs call for; none while a method's trials are not all there.

    A run that did not finish calls for nothing.
    """
    roles = {*TRIAL_ROLES, "method"} if plan.freeze else set(TRIAL_ROLES)
    keys = {spec.key: None for spec in plan.runs if spec.role in roles}
    found = {run.record.key: run for run in read_all(suite_folder, keys) if isinstance(run, Run)}
    recorded = [found[key] for key in keys if key in found]
    frozen = [spec for run in recorded if (spec := frozen_run(run)) is not None] if plan.freeze else []
    return [*tuned_runs(plan.runs, recorded), *frozen]
