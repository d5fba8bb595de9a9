"""The first gate: the weights of every method on fixed inputs are those that the baseline recorded.

Inputs are the recorded logs of ``inputs`` for every setting of every method, and a few training steps of ``tiny_runs`` for
every method. A weight may differ by a tolerance, as a share of the largest weight of its step.

``TOLERANCE`` holds for the logs. All is float64 and recorded to ten digits, so that equal code comes within 5e-10 (measured
with other numbers of threads and other vector instructions), while a changed formula moves weights by 1e-3 and more: in
between is room for another version of a library.

``RUN_TOLERANCE`` holds for the small runs. Their initial parameters and data are drawn in float32, whose last bit depends on
the processor, and CoBa, which divides by slopes near 0, turns that into 7e-6 (measured with torch's plain kernels instead of
AVX). Gradient norms taken at another layer move GradNorm's weights by 5e-2.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.catalog import problem_class, weighter_class
from benchmarks.errors import UNREADABLE, UserError, one_line
from benchmarks.records.files import write
from benchmarks.regression import golden_runs
from benchmarks.regression.gate_result import GateResult
from benchmarks.regression.golden_logs import FACTS, TASKS, Log, make_logs, observations, rounded
from weighting import Weighter, replay
from weighting._build import build, hyperparameters_of
from weighting.contract import LossesFrom

SCHEMA = 1
FILE = "golden_weights.json"
TOLERANCE = 1e-6
RUN_TOLERANCE = 1e-4
GATE = "weights"
LOG = "log "
"""Before the name of a log, where a small run has ``run``."""

Weights = list[list[float]]
Setting = tuple[type[Weighter], dict[str, Any]]


class Baseline(BaseModel):
    """``golden_weights.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    commit: str | None
    """Of the code that recorded it."""
    torch: str
    versions: dict[str, int] = {}
    """Method or problem -> version, of those whose numbers are recorded; 1 where it is not said."""
    logs: dict[str, dict[str, Any]]
    """Name -> log, see ``inputs``."""
    weights: dict[str, dict[str, Weights]]
    """Log or small run -> setting -> weights, steps by tasks."""


def settings(places: Iterable[str]) -> dict[str, Setting]:
    """Label -> class and hyperparameters: each method with its defaults, then with each other value of each choice it has.

    places: listed names and ``path/to/file.py:Class``. Choices are arguments that are a ``Literal``, and ``losses_from``.
    """
    found: dict[str, Setting] = {}
    for place in places:
        kind = weighter_class(place)
        name = place.rpartition(":")[2]
        found[name] = (kind, {})
        for choice, values in _choices(kind).items():
            for value in values:
                if value != hyperparameters_of(kind)[choice]:
                    found[f"{name}[{choice}={value}]"] = (kind, {choice: value})
    return found


def record(folder: Path, places: Iterable[str], commit: str | None) -> Path:
    """Write the baseline of today's code. Raises UserError where a method cannot be replayed, OSError."""
    logs = {name: dict(log) for name, log in make_logs().items()}
    weights: dict[str, dict[str, Weights]] = {}
    chosen = settings(places)
    for name, of_settings in _all_weights(logs, chosen).items():
        for label, found in of_settings.items():
            if isinstance(found, str):
                raise UserError(f"{name}: {label}: cannot be replayed: {found}")
            weights.setdefault(name, {})[label] = [[rounded(value) for value in step] for step in found]
    baseline = Baseline(commit=commit, torch=torch.__version__, versions=_versions(chosen), logs=logs, weights=weights)
    if (folder / FILE).exists():
        _check_versions(read(folder), baseline)
    return write(folder / FILE, _one_setting_a_line(baseline))


def read(folder: Path) -> Baseline:
    """The recorded baseline. Raises UserError."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA:
            raise UserError(f"{path}: expected schema_version {SCHEMA}, found {version!r}")
        baseline = Baseline.model_validate(content)
        for log in baseline.logs.values():
            observations(log)
        for name, of_settings in baseline.weights.items():
            for label, steps in of_settings.items():
                if len({len(step) for step in steps}) != 1:
                    raise ValueError(f"{name}: {label}: expected steps of equally many weights, found others")
    except FileNotFoundError as error:
        raise UserError(f"expected recorded weights at {path}, found none; `check --record` writes them") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
    return baseline


def judge(baseline: Baseline, places: Iterable[str]) -> list[GateResult]:
    """One verdict for each input and setting, recorded or present."""
    chosen = settings(places)
    now, versions = _all_weights(baseline.logs, chosen), _versions(chosen)
    verdicts = []
    for name in dict.fromkeys([*now, *baseline.weights]):
        before, after = baseline.weights.get(name, {}), now.get(name, {})
        for label in dict.fromkeys([*after, *before]):
            verdict = _verdict(name, label, before.get(label), after.get(label))
            method = label.partition("[")[0]
            old, new = baseline.versions.get(method, 1), versions.get(method)
            # A method that is gone has no new version, and stays a failure.
            if verdict.state == "failed" and new is not None and old != new:
                reason = f"version {new}, recorded is {old}; `check --record` records it anew"
                verdict = replace(verdict, state="not judged", reason=reason)
            verdicts.append(verdict)
    return verdicts


def _versions(chosen: Mapping[str, Setting]) -> dict[str, int]:
    """Of the methods and of the problems of the small runs."""
    methods = {label.partition("[")[0]: kind.version for label, (kind, _) in chosen.items()}
    return methods | {name: problem_class(name).version for name in golden_runs.SMALL}


def _check_versions(before: Baseline, after: Baseline) -> None:
    """Raise UserError where weights have changed under the same version: recorded runs would be taken for today's."""
    for name, of_settings in after.weights.items():
        for label, weights in of_settings.items():
            old = before.weights.get(name, {}).get(label)
            tolerance = TOLERANCE if name.startswith(LOG) else RUN_TOLERANCE
            if old is None or largest_difference(old, weights, tolerance)[1] < 0:
                continue
            parts = [label.partition("[")[0], *([name.partition(" ")[2]] if not name.startswith(LOG) else [])]
            if all(before.versions.get(part, 1) == after.versions.get(part, 1) for part in parts):
                raise UserError(
                    f"{name}: {label}: expected a new `version` of {' or '.join(parts)}, whose weights have changed, found "
                    f"{after.versions.get(parts[0], 1)} as before"
                )


def largest_difference(before: Weights, after: Weights, tolerance: float) -> tuple[float, int]:
    """Largest difference of a weight in units of its step's largest, and the first step beyond the tolerance (else -1)."""
    old, new = np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)
    if old.shape != new.shape:
        return math.inf, 0
    size = np.maximum(np.abs(old).max(axis=1), np.finfo(np.float64).tiny)
    differences = (np.abs(new - old) / size[:, None]).max(axis=1)
    differences = np.where(np.isfinite(differences), differences, math.inf)
    beyond = np.flatnonzero(differences > tolerance)
    return float(differences.max()), int(beyond[0]) if len(beyond) else -1


def _verdict(name: str, label: str, before: Weights | None, after: Weights | str | None) -> GateResult:
    if before is None:
        return GateResult(GATE, name, label, "not judged", "not in the baseline; `check --record` adds it")
    if after is None:
        return GateResult(GATE, name, label, "failed", "recorded in the baseline, found no such method or choice any more")
    if isinstance(after, str):
        return GateResult(GATE, name, label, "failed", f"cannot be replayed any more: {after}")
    tolerance = TOLERANCE if name.startswith(LOG) else RUN_TOLERANCE
    largest, step = largest_difference(before, after, tolerance)
    if step < 0:
        return GateResult(GATE, name, label, "ok", f"largest difference {largest:.1e}", largest)
    by = f"by up to {largest:.1e} of the largest weight" if math.isfinite(largest) else "in shape or by no finite number"
    return GateResult(
        GATE, name, label, "failed", f"weights differ from step {step} on, {by} (tolerance {tolerance:g})", largest
    )


def _all_weights(logs: Mapping[str, Log], chosen: Mapping[str, Setting]) -> dict[str, dict[str, Weights | str]]:
    """Log or small run -> label -> weights, or why there are none."""
    found: dict[str, dict[str, Weights | str]] = {}
    for name, log in logs.items():
        found[LOG + name] = {label: _replayed(log, *setting) for label, setting in chosen.items()}
    for problem in golden_runs.SMALL:
        defaults = {label: kind for label, (kind, more) in chosen.items() if not more}
        found[f"run {problem}"] = {label: _trained(problem, kind) for label, kind in defaults.items()}
    return found


def _replayed(log: Log, kind: type[Weighter], more: dict[str, Any]) -> Weights | str:
    try:
        return replay(build(kind, TASKS, **kind.defaults_for(FACTS), **more), observations(log)).tolist()
    except Exception as error:  # noqa: BLE001 - whatever a method raises is its verdict, and the others go on
        return one_line(error)


def _trained(problem: str, kind: type[Weighter]) -> Weights | str:
    try:
        return golden_runs.train(problem, kind)
    except Exception as error:  # noqa: BLE001 - as above
        return one_line(error)


def _choices(kind: type[Weighter]) -> dict[str, tuple[Any, ...]]:
    """Hyperparameter -> values, where they are a ``Literal``."""
    hints = {"losses_from": LossesFrom, **typing.get_type_hints(kind.__init__)}
    known = hyperparameters_of(kind)
    return {
        name: typing.get_args(hint) for name, hint in hints.items() if name in known and typing.get_origin(hint) is Literal
    }


def _one_setting_a_line(baseline: Baseline) -> str:
    """JSON in which a changed method is one changed line."""
    content = baseline.model_dump(mode="json")
    parts = {}
    for part in ("logs", "weights"):
        rows = [
            f"  {json.dumps(name)}: {{\n"
            + ",\n".join(f"   {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in of.items())
            + "\n  }"
            for name, of in content.pop(part).items()
        ]
        parts[part] = " {\n" + ",\n".join(rows) + "\n }"
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    lines += [f' "{part}":{text}' for part, text in parts.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
