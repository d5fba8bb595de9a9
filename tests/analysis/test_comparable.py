"""Which runs are compared: the same conditions everywhere, and no run is lost without a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fake_runs
import pytest

from benchmarks.analysis.comparable import conditions, difference
from benchmarks.analysis.scores import RELATIVE, scores
from benchmarks.analysis.sections import Section, sections, uniform_label
from benchmarks.records.schema import Fingerprints, Run

Change = Callable[[Run], Run]


def changed(part: str | None, **changes: Any) -> Change:
    """A run whose problem, method or own settings are others, under the key of these."""

    def change(run: Run) -> Run:
        spec = run.record.run
        update = changes if part is None else {part: getattr(spec, part).model_copy(update=changes)}
        spec = spec.model_copy(update=update)
        return replace(run, record=run.record.model_copy(update={"run": spec, "key": spec.key}))

    return change


as_it_is = changed(None)


def suite(seeds: int = 3) -> list[Run]:
    """Two methods and the single-task runs of both tasks."""
    runs = [fake_runs.make(method, seed) for method in ("uniform", "famo") for seed in range(seeds)]
    singles = [
        fake_runs.make("uniform", seed, tasks=(task,), role="single_task")
        for seed in range(seeds)
        for task in ("left", "right")
    ]
    return [as_it_is(run) for run in [*runs, *singles]]


def shown(found: list[Section]) -> set[str]:
    """Keys of the runs that are in a section."""
    keys = set()
    for section in found:
        keys |= {run.record.key for run in (*section.runs.values(), *section.single.values())}
        keys |= {run.record.key for groups in section.others.values() for runs in groups.values() for run in runs}
        keys |= {run.record.key for run, _ in section.excluded}
    return keys


OTHER_CONDITIONS: dict[str, Change] = {
    "device": changed(None, device="cuda"),
    "source of the problem": changed("problem", source="b" * 16),
    "version of the problem": changed("problem", version=2),
    "contents of files": changed("problem", contents={"text": "c" * 16}),
    "options": changed("problem", options={"size": 32}),
    "threads": changed("training", threads=2),
    "accumulate": changed("training", accumulate=2),
    "steps": changed("training", steps=401),
}


@pytest.mark.parametrize("what", OTHER_CONDITIONS)
def test_runs_under_other_conditions_stand_apart_and_it_is_said(what: str) -> None:
    runs = suite()
    both = [*runs, *map(OTHER_CONDITIONS[what], runs)]
    found, warnings = sections(both)
    assert [len(section.runs) for section in found] == [6, 6]
    assert [len(section.single) for section in found] == [6, 6]
    assert len({section.name for section in found}) == len({section.slug for section in found}) == 2
    (warning,) = warnings
    assert "runs of 2 different settings, shown apart and not compared" in warning
    assert difference(found[0].spec, found[1].spec, "there") in warning
    assert shown(found) == {run.record.key for run in both}


OTHER_METHODS: dict[str, Change] = {
    "source": changed("weighter", source="b" * 16),
    "version": changed("weighter", version=2),
    "hyperparameters": changed("weighter", hyperparameters={"for": "another"}),
}


@pytest.mark.parametrize("what", OTHER_METHODS)
def test_two_versions_of_a_method_are_two_methods_of_one_section(what: str) -> None:
    runs = suite()
    later = [OTHER_METHODS[what](run) for run in runs if run.record.run.role == "method"]
    ((section,), warnings) = sections([*runs, *later])
    assert len(section.runs) == 12
    assert len(section.methods) == 4
    assert {warning.partition(": ")[2].partition(" different")[0] for warning in warnings} == {"uniform: 2", "famo: 2"}
    # One of the two uniform weightings is what the others are compared with.
    assert uniform_label(section) in section.methods
    assert scores(section).methods[RELATIVE].notna().all()


def test_a_setting_at_its_default_is_no_other_condition() -> None:
    """A record older than an option, and one that has it at its default."""
    old = fake_runs.make("uniform", 0, problem="famo_toy", options={"size": 64})
    new = fake_runs.make("famo", 0, problem="famo_toy", options={"size": 64, "tolerance": 0.01})
    ((section,), warnings) = sections([as_it_is(old), as_it_is(new)])
    assert (len(section.runs), warnings) == (2, [])
    stricter = fake_runs.make("famo", 0, problem="famo_toy", options={"size": 64, "tolerance": 0.001})
    assert len(sections([as_it_is(old), as_it_is(stricter)])[0]) == 2


def test_of_two_records_of_one_run_the_later_counts_and_it_is_said() -> None:
    runs = suite()
    later = [
        replace(run, record=run.record.model_copy(update={"started": "2026-02-01T00:00:00Z", "key": f"{number:016x}"}))
        for number, run in enumerate(runs)
    ]
    found, warnings = sections([*later, *runs])
    assert shown(found) == {run.record.key for run in later}
    assert len(warnings) == len(runs)
    assert all("the same run as" in warning for warning in warnings)


def test_runs_that_belong_nowhere_are_named() -> None:
    lonely = [
        as_it_is(fake_runs.make("uniform", 0, tasks=("middle",), role="single_task")),
        as_it_is(fake_runs.make("static", 0, role="frozen", options={"size": 128})),
        as_it_is(fake_runs.make("famo", 7, role="trial", problem="elsewhere")),
    ]
    found, warnings = sections([*suite(), *lonely])
    assert shown(found) == {run.record.key for run in suite()}
    for run in lonely:
        assert any(run.record.key in warning and "no run of a method has its conditions" in warning for warning in warnings)


def test_runs_of_several_commits_are_said() -> None:
    def of(commit: str | None, *runs: Run) -> list[Run]:
        return [replace(run, record=run.record.model_copy(update={"commit": commit})) for run in runs]

    first = fake_runs.make("uniform", 0)
    runs = [
        *of("a" * 40, first, fake_runs.make("famo", 0), fake_runs.make("uniform", 0, tasks=("left",), role="single_task")),
        *of("b" * 40 + "+changes", fake_runs.make("coba", 0, role="tuned")),
        *of(None, fake_runs.make("coba", 0)),
    ]
    ((section,), warnings) = sections(runs)
    assert len(section.runs) == 3
    assert warnings == [
        "pictures: trained by 3 commits: aaaaaaa (3 runs: STL, famo, uniform); an unknown commit (1 run: coba); "
        "bbbbbbb+changes (1 run: coba)"
    ]
    assert sections(of("a" * 40, *runs))[1] == []


def test_runs_on_several_processors_are_said() -> None:
    """Not where one record does not tell the instructions that others of its processor do."""

    def on(runs: list[Run], **facts: str | None) -> list[Run]:
        return [replace(run, record=run.record.model_copy(update={"machine": facts})) for run in runs]

    uniform, famo, coba = (fake_runs.make(name, 0) for name in ("uniform", "famo", "coba"))
    one, same = {"processor": "A", "instructions": "AVX512"}, {"processor": "A", "instructions": None}
    assert sections([*on([uniform], **one), *on([famo, coba], **same)])[1] == []
    others = [{"processor": "A", "instructions": "AVX2"}, {"processor": "B"}, {"processor": "A", "gpu": "G"}]
    for other, name in zip(others, ["A with AVX2", "B", "G"], strict=True):
        (warning,) = sections([*on([uniform, famo], **one), *on([coba], **other)])[1]
        kinds = f"A with AVX512 (2 runs: famo, uniform); {name} (1 run: coba)"
        assert warning.startswith(
            f"pictures: trained on 2 kinds of processor: {kinds}; numbers are rounded otherwise on each"
        )


def test_a_tuned_run_may_have_its_own_learning_rate_and_nothing_else() -> None:
    lr = changed("training", lr=0.3)
    tuned = lr(fake_runs.make("famo", 0, role="tuned"))
    frozen = lr(fake_runs.make("static", 0, role="frozen"))
    (section,), warnings = sections([*suite(), tuned, frozen])
    assert set(section.others) == {"tuned"}
    assert [frozen.record.key in warning for warning in warnings] == [True]


@pytest.mark.parametrize("field", Fingerprints.model_fields)
def test_a_run_that_began_otherwise_is_left_out_with_the_reason(field: str) -> None:
    runs = suite()
    prints = runs[4].record.fingerprints
    assert prints is not None
    odd = replace(runs[4], record=runs[4].record.model_copy(update={"fingerprints": prints.model_copy(update={field: "x"})}))
    (section,), warnings = sections([odd if run is runs[4] else run for run in runs])
    ((excluded, why),) = section.excluded
    assert excluded is odd
    assert why == f"{field.replace('_', ' ')} differ from the other runs of seed 1"
    assert [why in warning for warning in warnings] == [True]


def test_what_differs_is_said_with_both_values() -> None:
    one, other = suite()[0].record.run, changed("training", steps=600)(suite()[0]).record.run
    assert conditions(one) != conditions(other)
    assert conditions(one, ("training.steps",)) == conditions(other, ("training.steps",))
    assert difference(one, other, "here") == "training.steps 400, here 600"
    assert difference(one, one, "here") == ""
