"""Records of a small suite for tests of ``compare`` and ``check``: nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fake_runs
import suites

from benchmarks.harness.dispatcher import PlanResult
from benchmarks.planning.plan import Plan
from benchmarks.planning.status import Recorded
from benchmarks.records import provenance
from benchmarks.records.schema import Fingerprints, MetricInfo, Run, RunSpec
from benchmarks.records.storage import write_run

METHODS = ("uniform", "random", "gradnorm", "dwa", "famo", "coba")
INFOS = tuple(
    MetricInfo(key=f"{task}/mse", name="mse", task=task, higher_is_better=False, primary=True)
    for task in ("small", "medium", "large")
)
Change = Callable[[RunSpec], float]
"""A factor for a run."""


def suite(folder: Path, seeds: Sequence[int] = (0, 1, 2), **more: Any) -> Path:
    """A suite file of all these methods."""
    return suites.suite_file(folder, **{"seeds": list(seeds), "weighters": list(METHODS), **more})


def plan(path: Path) -> Plan:
    return suites.plan_in(path)


def same(_: RunSpec) -> float:
    return 1.0


def run(spec: RunSpec, suite_name: str, metric: Change = same, seconds: Change = same, **changes: Any) -> Run:
    """A finished run of a spec: metrics with a spread of about 1 % over seeds, s/step as ``fake_runs.COST`` says."""
    tasks = spec.problem.tasks
    infos = tuple(info for info in INFOS if info.task in tasks)
    spread = 1 + 0.01 * (spec.seed % 3 - 1)
    made = fake_runs.make(
        spec.weighter.name,
        spec.seed,
        tasks=tasks,
        infos=infos,
        training=spec.training,
        metrics={info.key: 0.5 * spread * metric(spec) for info in infos},
        seconds=0.004 * fake_runs.COST.get(spec.weighter.name, 1.2) * seconds(spec),
        **changes,
    )
    update = {"run": spec, "key": spec.key, "suite": suite_name, "commit": provenance.commit()}
    return Run(made.record.model_copy(update=update), made.trajectory)


def write(folder: Path, runs: Sequence[Run]) -> Path:
    """A suite folder of these runs."""
    return fake_runs.write_suite(folder, runs)


def trainer(metric: Change = same, seconds: Change = same, seen: list[RunSpec] | None = None, **changes: Any) -> Any:
    """What stands in for ``execute``: records made-up runs where there are none."""

    def execute(folder: Path, name: str, runs: list[RunSpec], **_: Any) -> PlanResult:
        for spec in runs:
            if seen is not None:
                seen.append(spec)
            if not (folder / "runs" / spec.key).exists():
                made = run(spec, name, metric, seconds, **changes)
                write_run(folder / "runs", made.record, made.trajectory)
        return PlanResult([Recorded(spec, "finished") for spec in runs])

    return execute


def prints(seed: int, **changes: str) -> Fingerprints:
    return Fingerprints(**{"initial_parameters": f"p{seed}", "data": f"d{seed}", "data_order": f"o{seed}", **changes})
