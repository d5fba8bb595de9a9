"""Which runs may be compared: those under the same conditions that began alike.

Conditions (``RunSpec.conditions``) are all that makes a run's key but the method, the seed and what the run is for: problem,
version, source, options, contents of files, tasks, training settings, kind of device. Two methods, or two versions of one,
are compared under equal conditions; two versions of a problem are not. To have begun alike is to have the same fingerprints:
initial parameters, data, order of the batches.

Tables of a suite, ``compare`` and ``check`` all ask here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contract import DATA_RULE
from benchmarks.records.schema import SINGLE_TASK_ROLES, Fingerprints, Run, RunSpec, WeighterSpec, as_json

UNIFORM = "uniform"
"""The method that others are compared with."""
STATIC = "static"
"""Constant weights, with which the tuned are compared too."""
FINGERPRINTS = tuple(Fingerprints.model_fields)


def is_uniform(spec: WeighterSpec) -> bool:
    """Whether a method is the one that others are compared with: under a prior, weights are no longer uniform."""
    return _is_plain(spec, UNIFORM)


def plain_label(methods: Mapping[str, WeighterSpec], method: str) -> str | None:
    """What a method without a prior is called among methods (label -> method); None where it is not among them.

    Of several settings the one that bears the plain name counts.
    """
    found = [label for label, spec in methods.items() if _is_plain(spec, method)]
    return method if method in found else next(iter(found), None)


def uniform_label(methods: Mapping[str, WeighterSpec]) -> str | None:
    """What uniform weights are called among methods, as ``plain_label``."""
    return plain_label(methods, UNIFORM)


def _is_plain(spec: WeighterSpec, method: str) -> bool:
    return spec.name == method and spec.hyperparameters.get("prior") is None


LONGEST_NAME = 50
"""Characters of settings in the name of a section."""


def conditions(spec: RunSpec, but: Sequence[str] = ()) -> str:
    """The conditions of a run as text: equal for runs that may be compared. but: names left out, e.g. ``training.lr``."""
    found = flat(spec.conditions)
    return as_json({name: value for name, value in found.items() if name not in but})


def difference(one: RunSpec, other: RunSpec, place: str) -> str:
    """In what two conditions differ, e.g. ``training.steps 300, here 600`` with ``place="here"``; empty if in nothing."""
    first, second = flat(one.conditions), flat(other.conditions)
    names = [name for name in {**first, **second} if as_json(first.get(name)) != as_json(second.get(name))]
    old, new = _in_full(one), _in_full(other)
    return "; ".join(f"{name} {json.dumps(old.get(name))}, {place} {json.dumps(new.get(name))}" for name in names)


def short_differences(specs: Sequence[RunSpec]) -> list[str]:
    """For each run the options and training settings, not at their defaults, that not all have: ``[steps=600]``, or empty.

    Empty too where they are too many, or too long, for a name.
    """
    settings = [{**spec.conditions["options"], **spec.conditions["training"]} for spec in specs]
    shared = {name for name in settings[0] if len({as_json(each.get(name)) for each in settings}) == 1}
    own = [{name: value for name, value in each.items() if name not in shared} for each in settings]
    said = [", ".join(f"{name}={as_json(value)}" for name, value in each.items()) for each in own]
    return [f"[{text}]" if 0 < len(text) <= LONGEST_NAME else "" for text in said]


def differing(own: Fingerprints | None, usual: Fingerprints | None, fields: Sequence[str] = FINGERPRINTS) -> list[str]:
    """In what a run began otherwise, in words; nothing where that is not known of one of them."""
    if own is None or usual is None:
        return []
    return [name.replace("_", " ") for name in fields if getattr(own, name) != getattr(usual, name)]


def began_alike(methods: Sequence[Run], singles: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Runs to keep, and runs to leave out with the reason: for every seed, those that differ from the majority.

    methods: runs of the same tasks; singles: single-task runs, of which only the data can be held against the others'.
    """
    kept: list[Run] = []
    excluded: list[tuple[Run, str]] = []
    for seed in sorted({run.seed for run in (*methods, *singles)}):
        together = [run for run in methods if run.seed == seed]
        alone = [run for run in singles if run.seed == seed]
        usual = _majority(together) or _majority(alone)
        for run in together + alone:
            fields = ("data",) if run.record.run.role in SINGLE_TASK_ROLES else FINGERPRINTS
            found = differing(run.record.fingerprints, usual, fields)
            if found:
                why = f"{' and '.join(found)} differ from the other runs of seed {seed}"
                rule = f"; {DATA_RULE} (run_bench.py check-problem tells more)" if fields == ("data",) else ""
                excluded.append((run, why + rule))
            else:
                kept.append(run)
    return kept, excluded


def latest(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Runs to keep, and runs to leave out with the reason: of several records of one run, all but the one started last."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        spec = run.record.run
        # A baseline is its task and seed, whatever weighting stood beside its only loss.
        identity = conditions(spec) + str(spec.seed) if spec.role == "single_task" else spec.key
        groups.setdefault(spec.role + identity, []).append(run)
    kept: list[Run] = []
    excluded: list[tuple[Run, str]] = []
    for same in groups.values():
        chosen = max(same, key=lambda run: (run.record.state == "finished", run.record.started, run.record.key))
        kept.append(chosen)
        excluded += [(run, f"the same run as {chosen.record.key}, which counts") for run in same if run is not chosen]
    return kept, excluded


def flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """With ``outer.inner`` for the names of a mapping in it."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            found[name] = value
    return found


def _in_full(spec: RunSpec) -> dict[str, Any]:
    """The conditions with every setting, those at their defaults included."""
    full = {"options": spec.problem.options, "training": spec.training.model_dump(mode="json")}
    return flat(spec.conditions | full)


def _majority(runs: Sequence[Run]) -> Fingerprints | None:
    """The fingerprints most runs share; of equally common ones those of the uniform run, else of the first key."""
    known = [run for run in sorted(runs, key=lambda run: run.record.key) if run.record.fingerprints is not None]
    if not known:
        return None
    count = Counter(run.record.fingerprints for run in known)
    best = max(known, key=lambda run: (count[run.record.fingerprints], run.record.run.weighter.name == UNIFORM))
    return best.record.fingerprints
