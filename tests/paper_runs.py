"""Made-up runs of the papers' experiments, and what the claims make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fake_runs
import numpy as np
import pandas as pd

from benchmarks.analysis.scores import scores
from benchmarks.analysis.sections import sections
from benchmarks.contract import Training
from benchmarks.papers.claims import Check, Measured
from benchmarks.papers.experiments import EXPERIMENTS
from benchmarks.problems.famo_toy import STARTS
from benchmarks.records.schema import MetricInfo, Role, Run

SEEDS = tuple(range(8))


def measured(paper: str, runs: Sequence[Run]) -> list[Measured]:
    """Of the experiments whose problem has runs."""
    found = {section.name: scores(section) for section in sections(runs)[0]}
    return [
        each.measure({name: own for name, own in found.items() if own.section.problem.name == each.problem})
        for each in EXPERIMENTS[paper]
        if any(own.section.problem.name == each.problem for own in found.values())
    ]


def checks_of(paper: str, runs: Sequence[Run]) -> list[Check]:
    return [check for each in measured(paper, runs) for check in each.checks]


def verdicts(paper: str, runs: Sequence[Run]) -> list[str]:
    return [check.verdict for check in checks_of(paper, runs)]


def landscape(method: str, gaps: Sequence[float]) -> Run:
    keys = [f"front_gap[start {number}]" for number in range(1, len(STARTS) + 1)]
    infos = [MetricInfo(key=key, name=key, task=None, higher_is_better=False, primary=False) for key in keys]
    return fake_runs.make(
        method,
        problem="famo_toy",
        tasks=("f1", "f2"),
        infos=infos,
        metrics=dict(zip(keys, gaps, strict=True)),
        options={"tolerance": 0.01},
    )


ON, NEAR, OFF = 0.0, 0.0099, 0.96
SUMMED = MetricInfo(key="summed_relative_loss", name="summed", task=None, higher_is_better=False, primary=False)


def regressions(levels: dict[str, float], seeds: Sequence[int] = SEEDS, noise: float = 0.01) -> list[Run]:
    draw = np.random.default_rng(0)
    return [
        fake_runs.make(
            method, seed, problem="gradnorm_toy", infos=[SUMMED], metrics={SUMMED.key: level + float(draw.normal(0, noise))}
        )
        for seed in seeds
        for method, level in levels.items()
    ]


LANGUAGE_MODEL = Training(steps=400, log_every=20, evaluate_every=20)
TASKS = ("python", "stubs")
BITS = [MetricInfo(key=f"{task}/bits", name="bits", task=task, higher_is_better=False, primary=True) for task in TASKS]
RIVALS = ("gradnorm", "lbtw", "famo", "famo[losses_from=validation]", "metaweighting")


def language_model(
    method: str,
    seed: int,
    apart: int,
    seconds: float = 0.001,
    *,
    problem: str = "code_lm",
    bits: float = 1.0,
    stubs: float = 0.5,
    role: Role = "method",
    warmup: int = 80,
    options: dict[str, Any] | None = None,
) -> Run:
    """Two tasks whose validation losses are lowest ``apart`` steps from each other. stubs: the weight of the second."""
    steps = np.arange(0, 401, 20)
    frames = []
    for task, best, weight in (("python", 100, 1 - stubs), ("stubs", 100 + apart, stubs)):
        loss = 1 + np.abs(steps - best) * (1e-3 + 1e-6 * seed)
        frame = pd.DataFrame(
            {"step": steps, "replica": 0, "task": task, "train_loss": loss, "val_loss": loss, "weight": weight}
        )
        frame.loc[frame["step"] == 400, ["train_loss", "weight"]] = np.nan
        frames.append(frame)
    run = fake_runs.make(
        method,
        seed,
        problem=problem,
        tasks=TASKS,
        infos=BITS,
        metrics={info.key: bits * (1 + 0.001 * seed) for info in BITS},
        trajectory=pd.concat(frames, ignore_index=True),
        training=LANGUAGE_MODEL,
        seconds=seconds * (1 + 0.001 * seed),
        role=role,
        options=options,
    )
    spec = run.record.run.weighter.model_copy(update={"name": method.partition("[")[0]})
    changes = {"run": run.record.run.model_copy(update={"weighter": spec}), "resolved": {"warmup": warmup}}
    return Run(run.record.model_copy(update=changes), run.trajectory)


def languages(
    coba: tuple[int, float], others: tuple[int, float], seeds: Sequence[int] = SEEDS, bits: tuple[float, float] = (1.0, 1.0)
) -> list[Run]:
    """Steps apart, seconds per step and bits per byte of CoBa and of its rivals; equal weights take 1 ms."""
    jitter = {seed: 20 * (seed % 2) for seed in seeds}
    runs = [language_model("coba", seed, *coba, bits=bits[0]) for seed in seeds]
    for method in RIVALS:
        runs += [language_model(method, seed, others[0] + jitter[seed], others[1], bits=bits[1]) for seed in seeds]
    return runs + [language_model("uniform", seed, others[0] + jitter[seed], bits=bits[1] + 0.1) for seed in seeds]


def of_claims(words: str, checks: Sequence[Check]) -> list[str]:
    return [check.verdict for check in checks if words in check.claim]


def finetuned(famo: float, fed: float) -> list[Run]:
    """stubs has the fewest examples; equal weights are drawn in two ways."""
    weights = {"uniform": 0.5, "token_mean": 0.5, "famo": famo, "famo[losses_from=validation]": fed, "coba": 0.5}
    runs = [
        language_model(name, seed, 40 if name != "famo" else 0, problem="finetune_lm", stubs=weight + 0.001 * seed)
        for name, weight in weights.items()
        for seed in SEEDS
    ]
    return runs + [
        language_model("uniform", seed, 40, problem="finetune_lm", bits=0.7, options={"sampling": "proportional"})
        for seed in SEEDS
    ]
