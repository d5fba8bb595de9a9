"""Which runs may be compared: one section for each problem with one set of options, tasks and training settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import weighting
from benchmarks.base import DATA_RULE, Training
from benchmarks.record import MetricInfo, ProblemSpec, Role, Run

UNIFORM = "uniform"
"""The method that costs are relative to."""
COMPARED: tuple[Role, ...] = ("method", "single_task")
"""The roles that make a comparison; runs of the others are added to one."""
STL = "STL"
"""What the single-task baseline is called."""


@dataclass(frozen=True)
class Section:
    """Runs that are compared with each other, and those that would have been."""

    name: str
    slug: str
    """The name as part of a file name."""
    problem: ProblemSpec
    training: Training
    tasks: tuple[str, ...]
    metrics: tuple[MetricInfo, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    """Labels, in the order of the list of methods."""
    runs: Mapping[tuple[str, int], Run]
    """(label, seed) -> run in any state."""
    single: Mapping[tuple[str, int], Run]
    """(task, seed) -> single-task run in any state."""
    others: Mapping[Role, Mapping[tuple[str, int], tuple[Run, ...]]]
    """Role besides these two -> (label, seed) -> its runs in any state; the label is the method's, or names the weights."""
    excluded: tuple[tuple[Run, str], ...]
    """Runs whose fingerprints differ, and in what."""

    def finished(self, method: str) -> list[Run]:
        """The method's finished runs, in the order of the seeds."""
        runs = [self.runs.get((method, seed)) for seed in self.seeds]
        return [run for run in runs if run is not None and run.record.state == "finished"]

    def baseline(self, task: str, seed: int) -> Run | None:
        """The finished single-task run of a task and seed."""
        run = self.single.get((task, seed))
        return run if run is not None and run.record.state == "finished" else None

    def of_role(self, role: Role, label: str) -> list[Run]:
        """The finished runs of another role that belong to a label, in the order of their seeds."""
        found = [(seed, run) for (name, seed), runs in self.others.get(role, {}).items() if name == label for run in runs]
        return [
            run for _, run in sorted(found, key=lambda pair: (pair[0], pair[1].record.key)) if run.record.state == "finished"
        ]

    @property
    def pool(self) -> tuple[str, ...]:
        """Methods that finished on all seeds: those that are ranked."""
        return tuple(method for method in self.methods if len(self.finished(method)) == len(self.seeds))

    @property
    def primary(self) -> tuple[MetricInfo, ...]:
        """The metrics that are ranked; those of them with a task enter Delta-m."""
        return tuple(info for info in self.metrics if info.primary)


def uniform_runs(section: Section) -> list[Run]:
    """The finished runs of uniform weights, in the order of the seeds; none where there is no such method."""
    labels = [label for label in section.methods if label.partition("[")[0] == UNIFORM]
    return section.finished(labels[0]) if labels else []


def sections(runs: Sequence[Run]) -> tuple[list[Section], list[str]]:
    """The sections in the order of their names, and warnings about clashes and excluded runs."""
    warnings: list[str] = []
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.record.run.role in COMPARED:
            groups.setdefault(_digest(_setting(run)), []).append(run)
    found: list[tuple[str, list[Run], list[Run]]] = []
    for digest, members in groups.items():
        methods = [run for run in members if run.record.run.role == "method"]
        singles = [run for run in members if run.record.run.role == "single_task"]
        chosen = sorted({run.record.tasks for run in methods})
        for tasks in chosen or [()]:
            same = [run for run in methods if run.record.tasks == tasks]
            name = digest if len(chosen) < 2 else _digest([digest, tasks])
            found.append((name, same, [run for run in singles if not tasks or run.record.tasks[0] in tasks]))
    names = Counter((same or singles)[0].problem for _, same, singles in found)
    result = []
    others = [run for run in runs if run.record.run.role not in COMPARED]
    for digest, same, singles in found:
        name = (same or singles)[0].problem
        if names[name] > 1:
            name = f"{name}@{digest}"
        section, more = _section(name, digest, same, singles, [run for run in others if same and _belongs(run, same[0])])
        result.append(section)
        warnings += more
    for name, count in names.items():
        if count > 1:
            warnings.append(f"{name}: runs of {count} different settings, shown apart and not compared with each other")
    result.sort(key=lambda section: section.name)
    return _with_unique_slugs(result), sorted(warnings)


def method_labels(runs: Iterable[Run]) -> tuple[dict[str, str], list[str]]:
    """Method (see ``method_id``) -> the one label for it, and warnings about labels that had to be told apart.

    A label may have changed while a suite grew: the latest run's counts.
    """
    latest: dict[str, tuple[str, str]] = {}
    for run in runs:
        if run.record.run.role == "method":
            entry = (run.record.started, run.label)
            latest[method_id(run)] = max(latest.get(method_id(run), entry), entry)
    count = Counter(label for _, label in latest.values())
    labels = {key: label if count[label] == 1 else f"{label}@{key}" for key, (_, label) in latest.items()}
    warnings = [
        f"{label}: {number} different sets of hyperparameters go by this name, shown apart"
        for label, number in count.items()
        if number > 1
    ]
    return labels, warnings


def method_id(run: Run) -> str:
    """Short hash of a method and its hyperparameters."""
    weighter = run.record.run.weighter
    return _digest([weighter.name, weighter.hyperparameters])


def _belongs(other: Run, method: Run) -> bool:
    """Whether a run of another role is compared with a method's: only a tuned method has its own learning rate."""
    if other.record.tasks != method.record.tasks:
        return False
    learning_rate = other.record.run.role in ("trial", "tuned")
    return _setting(other, but_lr=learning_rate) == _setting(method, but_lr=learning_rate)


def _section(name: str, digest: str, same: list[Run], singles: list[Run], others: list[Run]) -> tuple[Section, list[str]]:
    kept, excluded = _comparable([*same, *others], singles)
    labels, warnings = method_labels(same)
    methods: dict[tuple[str, int], Run] = {}
    single: dict[tuple[str, int], Run] = {}
    further: dict[Role, dict[tuple[str, int], tuple[Run, ...]]] = {}
    for run in kept:
        role = run.record.run.role
        if role == "method":
            methods[labels[method_id(run)], run.seed] = run
        elif role == "single_task":
            single[run.record.tasks[0], run.seed] = run
        else:
            known = further.setdefault(role, {})
            known[run.label, run.seed] = (*known.get((run.label, run.seed), ()), run)
    everyone = {labels[method_id(run)]: run.record.run.weighter.name for run in same}
    first = next((run for run in same if run.record.metric_infos), (same or singles)[0])
    infos = first.record.metric_infos if same else tuple(_union(run.record.metric_infos for run in singles))
    section = Section(
        name=name,
        slug=re.sub(r"[^A-Za-z0-9_.@-]+", "_", name).strip("._") or digest,
        problem=first.record.run.problem,
        training=first.record.run.training,
        tasks=first.record.tasks if same else tuple(sorted({run.record.tasks[0] for run in singles})),
        metrics=infos,
        seeds=tuple(sorted({run.seed for run in same or singles})),
        methods=tuple(sorted(everyone, key=lambda label: (_place(everyone[label]), _natural(label)))),
        runs=methods,
        single=single,
        others=further,
        excluded=tuple(excluded),
    )
    left_out = [f"run {run.record.key} ({_title(run)}) is left out: {why}" for run, why in excluded]
    return section, [f"{name}: {warning}" for warning in (*warnings, *left_out)]


def _comparable(same: list[Run], singles: list[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Runs to keep, and runs to leave out with the reason: for every seed, those that differ from the majority."""
    kept: list[Run] = []
    excluded: list[tuple[Run, str]] = []
    for seed in sorted({run.seed for run in same + singles}):
        methods = [run for run in same if run.seed == seed]
        alone = [run for run in singles if run.seed == seed]
        usual = _majority(methods) or _majority(alone)
        for run in methods + alone:
            own = _fingerprints(run)
            # A single-task run has other tasks, so only its data can be held against the others'.
            fields = ["data"] if run.record.run.role == "single_task" else list(usual)
            differing = [field for field in fields if own and usual and own[field] != usual[field]]
            if differing:
                why = f"{' and '.join(differing)} differ from the other runs of seed {seed}"
                if run.record.run.role == "single_task":
                    why = f"{why}; {DATA_RULE} (run_bench.py check-problem tells more)"
                excluded.append((run, why))
            else:
                kept.append(run)
    return kept, excluded


def _majority(runs: Sequence[Run]) -> dict[str, str]:
    """The fingerprints most runs share; of equally common ones those of the uniform run, else of the first key."""
    known = [run for run in sorted(runs, key=lambda run: run.record.key) if _fingerprints(run)]
    if not known:
        return {}
    count = Counter(tuple(_fingerprints(run).values()) for run in known)
    best = max(known, key=lambda run: (count[tuple(_fingerprints(run).values())], run.record.run.weighter.name == UNIFORM))
    return _fingerprints(best)


def _fingerprints(run: Run) -> dict[str, str]:
    found = run.record.fingerprints
    if found is None:
        return {}
    return {"initial_parameters": found.initial_parameters, "data": found.data, "data_order": found.data_order}


def _setting(run: Run, *, but_lr: bool = False) -> list[Any]:
    spec = run.record.run
    training = spec.training.model_dump(mode="json", exclude={"lr"} if but_lr else None)
    return [spec.problem.name, spec.problem.options, training]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _title(run: Run) -> str:
    who = f"STL of {run.record.tasks[0]}" if run.record.run.role == "single_task" else run.label
    return f"{who}, seed {run.seed}"


def _union(groups: Iterable[tuple[MetricInfo, ...]]) -> list[MetricInfo]:
    found = {info.key: info for group in groups for info in group}
    return [found[key] for key in sorted(found)]


def _place(name: str) -> int:
    """Where a method stands in the list of methods; one that is not in it comes last."""
    listed = weighting.names()
    return listed.index(name) if name in listed else len(listed)


def _natural(label: str) -> list[tuple[int, float, str]]:
    """Sort key in which ``x=2`` comes before ``x=10``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]


def _with_unique_slugs(found: list[Section]) -> list[Section]:
    count = Counter(section.slug for section in found)
    return [
        section
        if count[section.slug] == 1
        else Section(**{**vars(section), "slug": f"{section.slug}-{_digest(section.name)}"})
        for section in found
    ]
