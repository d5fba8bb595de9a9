"""Made-up runs that look like real ones, for tests of the report: nothing is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.contract import Training
from benchmarks.problems.famo_toy import STARTS, landscape
from benchmarks.records.schema import (
    DISTURBED,
    Costs,
    Fingerprints,
    Flag,
    MetricInfo,
    ProblemSpec,
    Record,
    Role,
    Run,
    RunSpec,
    Selection,
    State,
    WeighterSpec,
)
from benchmarks.records.storage import write_run

METHODS = ("uniform", "static", "random", "gradnorm", "dwa", "uncertainty", "famo", "coba")
VARIANT = "coba(window=50)"
COST = {"uniform": 1.0, "static": 1.0, "random": 1.01, "gradnorm": 1.62, "dwa": 1.02, "uncertainty": 1.01, "famo": 1.34}


def make(
    method: str = "uniform",
    seed: int = 0,
    *,
    problem: str = "pictures",
    tasks: tuple[str, ...] = ("left", "right"),
    metrics: dict[str, float] | None = None,
    infos: Sequence[MetricInfo] | None = None,
    trajectory: pd.DataFrame | None = None,
    training: Training | None = None,
    role: Role = "method",
    state: State = "finished",
    failed_step: int | None = None,
    reason: str | None = None,
    hyperparameters: dict[str, Any] | None = None,
    fingerprints: Fingerprints | None = None,
    seconds: float | None = None,
    options: dict[str, Any] | None = None,
) -> Run:
    """One run; what is not given is made up from the method, the seed and the problem."""
    name = method.split("(")[0]
    training = training or Training(steps=400, log_every=10, evaluate_every=20)
    draw = np.random.default_rng(_number(method, seed, problem, tasks, role))
    table = trajectory if trajectory is not None else trajectories(name, tasks, training, draw, until=failed_step)
    infos = tuple(infos or [_info(task, metric) for task in tasks for metric in ("accuracy", "loss")])
    spec = RunSpec(
        problem=ProblemSpec(name=problem, options=options or {"size": 64}, tasks=tasks),
        weighter=WeighterSpec(name=name, label=method, hyperparameters=hyperparameters or {"for": method}),
        seed=seed,
        training=training,
        role=role,
    )
    finished = state == "finished"
    measured = table.dropna(subset="val_loss").groupby("step")["val_loss"].mean() if len(table) else pd.Series(dtype=float)
    test = metrics or {
        info.key: float(draw.normal(0.9, 0.01) if info.higher_is_better else draw.normal(0.4, 0.02)) for info in infos
    }
    record = Record(
        key=f"{_number(spec.model_dump_json(exclude={'weighter': {'label'}})):016x}",
        suite="fake",
        run=spec,
        state=state,
        reason=reason,
        failed_step=failed_step,
        tasks=tasks,
        metric_infos=infos,
        resolved={"learning_rate": 0.025, "window": 50} if name == "coba" else {},
        splits=f"Made-up numbers stand for the train, validation and test splits of {problem}.",
        num_parameters=1234,
        fingerprints=fingerprints or Fingerprints(initial_parameters=f"p{seed}", data=f"d{seed}", data_order=f"o{seed}"),
        selection=Selection(rule=training.selection, step=int(measured.index.to_numpy()[measured.argmin()]))
        if finished and len(measured)
        else None,
        metrics={"test": test, "validation": test} if finished else {},
        costs=Costs(
            seconds_per_step=seconds or COST.get(name, 1.2) * 0.004 * float(draw.normal(1, 0.01)),
            train_seconds=2.0,
            extra_forwards=float(name in ("famo", "coba")),
            extra_backwards=0.4 * (name == "gradnorm"),
            peak_memory_mb=float(round(310 + 20 * COST.get(name, 1.2))),
        )
        if finished
        else None,
        versions={"python": "3.11.9", "torch": "2.13.0"},
        commit="0123abc",
        machine={"cpu": "two cores", "gpu": None},
        started="2026-01-01T00:00:00Z",
    )
    return Run(record, table)


def trajectories(
    name: str, tasks: Sequence[str], training: Training, draw: np.random.Generator, *, until: int | None = None
) -> pd.DataFrame:
    """Falling losses, each task with its speed and a rise at the end; weights in the manner of the method."""
    last = training.steps if until is None else until
    steps = np.unique([*range(0, last, training.log_every), *range(0, last, training.evaluate_every), last])
    shift = _number(name) % 7 / 40
    frames = []
    for index, task in enumerate(tasks):
        speed = 2.0 + 7.0 * (index + 1) / len(tasks) + shift
        time = steps / training.steps
        loss = 2.3 * np.exp(-speed * time) + 0.12 + shift + 0.25 * np.maximum(0, time - 0.5) * (index % 2)
        if until is not None:
            loss = loss * np.exp(9 * np.maximum(0, time - 0.7 * last / training.steps))
        noise = np.exp(draw.normal(0, 0.03, len(steps)))
        weight = _weights(name, index, len(tasks), time, draw)
        weight[-1] = np.nan
        evaluated = (steps % training.evaluate_every == 0) | (steps == last)
        frames.append(
            pd.DataFrame(
                {
                    "step": steps,
                    "replica": np.int32(0),
                    "task": task,
                    "train_loss": np.where(steps == last, np.nan, 0.95 * loss * noise),
                    "val_loss": np.where(evaluated, loss * noise, np.nan),
                    "weight": weight,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def toy(method: str, seed: int = 0) -> Run:
    """A run like those of famo_toy: five replicas, their places, their losses."""
    training = Training(steps=50_000, log_every=250, evaluate_every=1000, selection="last")
    steps = np.arange(0, training.steps + 1, training.log_every)
    draw = np.random.default_rng(_number(method))
    frames = []
    for replica, start in enumerate(STARTS):
        share = (1 - np.exp(-4 * steps / training.steps))[:, None]
        end = np.array([draw.uniform(-7, 7), -8.3]) if replica or method != "uniform" else np.array([-8.0, 3.5])
        bend = np.stack([np.sin(np.pi * share[:, 0]), np.zeros(len(steps))], -1) * draw.normal(0, 1.5)
        places = np.array(start) * (1 - share) + end * share + bend
        losses = landscape(torch.tensor(places)).numpy()
        for task, index in (("f1", 0), ("f2", 1)):
            frame = pd.DataFrame({"step": steps, "replica": np.int32(replica), "task": task, "train_loss": losses[:, index]})
            frame["val_loss"] = np.where(steps % training.evaluate_every == 0, losses[:, index], np.nan)
            frame["weight"] = _weights(method, index, 2, steps / training.steps, draw)
            frame["probe.a"], frame["probe.b"] = places[:, 0], places[:, 1]
            frame.loc[frame["step"] == training.steps, ["train_loss", "weight"]] = np.nan
            frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    last = table[table["step"] == training.steps].groupby("task")["val_loss"].mean()
    infos = [
        MetricInfo(key="f1/loss", name="loss", task="f1", higher_is_better=False, primary=True),
        MetricInfo(key="f2/loss", name="loss", task="f2", higher_is_better=False, primary=True),
        MetricInfo(key="starts_on_front", name="starts_on_front", task=None, higher_is_better=True, primary=False),
    ]
    values = {"f1/loss": float(last["f1"]), "f2/loss": float(last["f2"]), "starts_on_front": 4.0 + (method != "uniform")}
    return make(
        method,
        seed,
        problem="famo_toy",
        tasks=("f1", "f2"),
        infos=infos,
        metrics=values,
        trajectory=table,
        training=training,
    )


def suite(seeds: Sequence[int] = (0, 1, 2), languages: int = 10, methods: Sequence[str] = METHODS) -> list[Run]:
    """Two problems (two and ten tasks) with all methods, single-task runs and a diverged run; and a toy landscape."""
    many = tuple(f"language {index}" for index in range(languages))
    runs = []
    for problem, tasks, labels in (("pictures", ("left", "right"), methods), ("languages", many, (*methods, VARIANT))):
        for seed in seeds:
            for method in labels:
                failed = problem == "pictures" and method == "gradnorm" and seed == seeds[-1]
                runs.append(
                    make(method, seed, problem=problem, tasks=tasks)
                    if not failed
                    else make(
                        method,
                        seed,
                        problem=problem,
                        tasks=tasks,
                        state="diverged",
                        failed_step=120,
                        reason="loss of task left is nan",
                    )
                )
            runs += [make("uniform", seed, problem=problem, tasks=(task,), role="single_task") for task in tasks]
    return runs + [toy(method) for method in methods]


def write_suite(folder: Path, runs: Sequence[Run]) -> Path:
    """The runs as a suite folder."""
    for run in runs:
        write_run(folder / "runs", run.record, run.trajectory)
    return folder


def _info(task: str, metric: str) -> MetricInfo:
    higher = metric == "accuracy"
    return MetricInfo(key=f"{task}/{metric}", name=metric, task=task, higher_is_better=higher, primary=higher)


def _weights(
    name: str, index: int, number: int, time: np.ndarray[Any, np.dtype[np.float64]], draw: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.float64]]:
    if name in ("uniform", "static"):
        return np.full(len(time), 1.0 if name == "uniform" else 2 * (index + 1) / (number + 1))
    if name == "random":
        return np.asarray(np.exp(draw.normal(0, 0.5, len(time))))
    scale = {"uncertainty": 6.0, "dwa": 0.1}.get(name, 0.6)
    drift = 1 + scale * (index - (number - 1) / 2) / number * time + 0.02 * draw.normal(0, 1, len(time))
    return np.asarray(np.maximum(drift, 0.02))


def _number(*parts: object) -> int:
    text = json.dumps(parts, default=str)
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def probed(run: Run) -> Run:
    """The run with two numbers inside the method: ``score`` for each task, and ``share``, which belongs to none."""
    frame = run.trajectory.copy()
    time = frame["step"] / run.record.run.training.steps
    place = frame["task"].map({task: index for index, task in enumerate(run.record.tasks)})
    frame["method.score"] = (1 + place) * (1 + time) * (1 + 0.01 * run.seed)
    frame["method.share"] = 1 - time / 2
    return Run(run.record, frame)


def disturbed(run: Run) -> Run:
    """The run, had it waited for a processor."""
    flags = (Flag(name=DISTURBED, text="the process waited for a processor for 50% of its training time"),)
    return Run(run.record.model_copy(update={"flags": flags}), run.trajectory)
