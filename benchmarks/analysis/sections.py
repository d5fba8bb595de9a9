"""The runs of a folder in sections: one for each set of conditions (see ``comparable``), with all methods under them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import weighting
from benchmarks.analysis import comparable
from benchmarks.analysis.comparable import began_alike, conditions, difference, latest, short_differences
from benchmarks.analysis.origins import mixed_origins
from benchmarks.contract import Training
from benchmarks.records.schema import (
    COMPARED,
    SINGLE_TASK_ROLES,
    TRIAL_ROLES,
    TUNED_ROLES,
    MetricInfo,
    ProblemSpec,
    Role,
    Run,
    RunSpec,
)

STL = "STL"
"""What the single-task baseline is called."""


@dataclass(frozen=True)
class Section:
    """Runs that are compared with each other, and those that would have been."""

    key: str
    """The conditions of its runs, see ``comparable``."""
    spec: RunSpec
    """Of one of them."""
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
    """Role besides these two -> (label, seed) -> its runs in any state; the label is the method's, names the weights, or is
    the task of a single-task run."""
    excluded: tuple[tuple[Run, str], ...]
    """Runs whose fingerprints differ, and in what."""

    def finished(self, method: str) -> tuple[Run, ...]:
        """The method's finished runs, in the order of the seeds."""
        return self._finished.get(method, ())

    def baseline(self, task: str, seed: int, tuned: bool = False) -> Run | None:
        """The finished single-task run of a task and seed, at the default setting or at the one that was chosen for it."""
        run = self.single.get((task, seed))
        if tuned:
            run = next((each for each in self.of_role("single_task_tuned", task) if each.seed == seed), None)
        return run if run is not None and run.record.state == "finished" else None

    def of_role(self, role: Role, label: str) -> tuple[Run, ...]:
        """The finished runs of another role that belong to a label, in the order of their seeds."""
        return self._finished_of_role.get((role, label), ())

    @cached_property
    def pool(self) -> tuple[str, ...]:
        """Methods that finished on all seeds: those that are ranked."""
        return tuple(method for method in self.methods if len(self.finished(method)) == len(self.seeds))

    @cached_property
    def _finished(self) -> dict[str, tuple[Run, ...]]:
        runs = {label: [self.runs.get((label, seed)) for seed in self.seeds] for label in self.methods}
        return {
            label: tuple(run for run in own if run is not None and run.record.state == "finished")
            for label, own in runs.items()
        }

    @cached_property
    def _finished_of_role(self) -> dict[tuple[Role, str], tuple[Run, ...]]:
        groups: dict[tuple[Role, str], list[Run]] = {}
        for role, by_label in self.others.items():
            for (label, _), runs in by_label.items():
                groups.setdefault((role, label), []).extend(run for run in runs if run.record.state == "finished")
        return {place: tuple(sorted(runs, key=lambda run: (run.seed, run.record.key))) for place, runs in groups.items()}

    @property
    def primary(self) -> tuple[MetricInfo, ...]:
        """The metrics that are ranked; those of them with a task enter Delta-m."""
        return tuple(info for info in self.metrics if info.primary)


def plain_label(section: Section, method: str) -> str | None:
    """What the section calls a method without a prior, see ``comparable.plain_label``."""
    specs = {label: run.record.run.weighter for (label, _), run in section.runs.items()}
    return comparable.plain_label({label: specs[label] for label in section.methods if label in specs}, method)


def uniform_label(section: Section) -> str | None:
    """What the section calls uniform weights."""
    return plain_label(section, comparable.UNIFORM)


def uniform_runs(section: Section) -> tuple[Run, ...]:
    """The finished runs of uniform weights, in the order of the seeds; none where there is no such method."""
    label = uniform_label(section)
    return () if label is None else section.finished(label)


def sections(runs: Sequence[Run]) -> tuple[list[Section], list[str]]:
    """The sections in the order of their names, and warnings.

    Warnings: what is shown apart, every run that is in no section, and runs of several commits in one.
    """
    single, doubled = latest(runs)
    warnings = [_left_out(run, why) for run, why in doubled]
    groups = _groups([run for run in single if run.record.run.role in COMPARED])
    rest = {run.record.key: run for run in single}
    result = []
    for name, group in zip(_names(groups), groups, strict=True):
        digest = _digest(group.key)
        others = [run for run in single if run.record.run.role not in COMPARED and group.takes(run)]
        section, more = _section(name, digest, group, others)
        result.append(section)
        warnings += more
        for run in (*group.methods, *group.singles, *others):
            rest.pop(run.record.key, None)
    warnings += [_left_out(run, "no run of a method has its conditions") for run in rest.values()]
    result.sort(key=lambda section: section.name)
    return _with_unique_slugs(result), sorted(warnings + _apart(result))


def method_labels(runs: Iterable[Run]) -> tuple[dict[str, str], list[str]]:
    """Method (see ``method_id``) -> the one label for it, and warnings about labels that had to be told apart.

    A label may have changed while a suite grew: the latest run's counts.
    """
    newest: dict[str, tuple[str, str]] = {}
    for run in runs:
        if run.record.run.role == "method":
            entry = (run.record.started, run.label)
            newest[method_id(run)] = max(newest.get(method_id(run), entry), entry)
    count = Counter(label for _, label in newest.values())
    labels = {key: label if count[label] == 1 else f"{label}@{key}" for key, (_, label) in newest.items()}
    warnings = [
        f"{label}: {number} different methods go by this name (hyperparameters, version or source), shown apart"
        for label, number in count.items()
        if number > 1
    ]
    return labels, warnings


def method_id(run: Run) -> str:
    """Short hash of a method: its name, version, source and hyperparameters."""
    return _digest(run.record.run.method)


@dataclass(frozen=True)
class _Group:
    """Runs under the same conditions, and the single-task runs of their tasks."""

    key: str
    """The conditions; without the tasks where there are single-task runs alone."""
    methods: tuple[Run, ...]
    singles: tuple[Run, ...]

    @property
    def problem(self) -> str:
        return (self.methods or self.singles)[0].problem

    @property
    def spec(self) -> RunSpec:
        """Of one of its runs."""
        return (self.methods or self.singles)[0].record.run

    def takes(self, other: Run) -> bool:
        """Whether a run of another role is compared with the methods.

        Only a tuned one has its own learning rate, and only a single-task one its own tasks.
        """
        if not self.methods:
            return False
        own, spec = other.record.run, self.methods[0].record.run
        if not set(own.problem.tasks) <= set(spec.problem.tasks):
            return False
        own_lr = ["training.lr"] if own.role in (*TRIAL_ROLES, *TUNED_ROLES) else []
        but = [*own_lr, "tasks"] if own.role in SINGLE_TASK_ROLES else own_lr
        return conditions(own, but) == conditions(spec, but)


def _names(groups: Sequence[_Group]) -> list[str]:
    """The problem of each group; where it has several, with the settings that tell them apart, see ``short_differences``."""
    together: dict[str, list[_Group]] = {}
    for group in groups:
        together.setdefault(group.problem, []).append(group)
    said = {
        group.key: problem + text
        for problem, those in together.items()
        for group, text in zip(those, short_differences([group.spec for group in those]), strict=True)
    }
    count = Counter(said[group.key] for group in groups)
    names = [said[group.key] for group in groups]
    return [name if count[name] == 1 else f"{name}@{_digest(group.key)}" for name, group in zip(names, groups, strict=True)]


def _groups(runs: Sequence[Run]) -> list[_Group]:
    methods: dict[str, list[Run]] = {}
    singles: dict[str, list[Run]] = {}
    for run in runs:
        spec = run.record.run
        groups, but = (methods, ()) if spec.role == "method" else (singles, ("tasks",))
        groups.setdefault(conditions(spec, but), []).append(run)
    found = []
    for key, members in methods.items():
        spec = members[0].record.run
        own = [run for run in singles.get(conditions(spec, ("tasks",)), ()) if run.record.tasks[0] in spec.problem.tasks]
        found.append(_Group(key, tuple(members), tuple(own)))
    without_tasks = {conditions(group.methods[0].record.run, ("tasks",)) for group in found}
    alone = [(key, members) for key, members in singles.items() if key not in without_tasks]
    return found + [_Group(key, (), tuple(members)) for key, members in alone]


def _apart(found: Sequence[Section]) -> list[str]:
    """For every problem with several sections, that these are not compared, and in what they differ."""
    warnings = []
    for name in sorted({section.problem.name for section in found}):
        first, *more = [section for section in found if section.problem.name == name]
        if more:
            spec = first.spec
            details = "; ".join(f"{each.name}: {difference(spec, each.spec, 'there')}" for each in more)
            warnings.append(
                f"{first.problem.name}: runs of {1 + len(more)} different settings, shown apart and not compared with each "
                f"other (beside {first.name}, {details})"
            )
    return warnings


def _left_out(run: Run, why: str) -> str:
    return f"run {run.record.key} ({_title(run)}) is left out: {why}"


def _section(name: str, digest: str, group: _Group, others: list[Run]) -> tuple[Section, list[str]]:
    same, singles = list(group.methods), list(group.singles)
    kept, excluded = began_alike([*same, *others], singles)
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
            label = run.record.tasks[0] if role in SINGLE_TASK_ROLES else run.label
            known[label, run.seed] = (*known.get((label, run.seed), ()), run)
    everyone = {labels[method_id(run)]: run.record.run.weighter.name for run in same}
    first = next((run for run in same if run.record.metric_infos), (same or singles)[0])
    infos = first.record.metric_infos if same else tuple(_union(run.record.metric_infos for run in singles))
    section = Section(
        key=group.key,
        spec=first.record.run,
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
    warnings += [_left_out(run, why) for run, why in excluded]
    return section, [f"{name}: {warning}" for warning in (*warnings, *mixed_origins(kept))]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _title(run: Run) -> str:
    who = f"STL of {run.record.tasks[0]}" if run.record.run.role in SINGLE_TASK_ROLES else run.label
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
        section if count[section.slug] == 1 else replace(section, slug=f"{section.slug}-{_digest(section.name)}")
        for section in found
    ]
