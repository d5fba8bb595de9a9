"""A suite that takes long: the uniform run of a seed is timed again where a method would have lost its pair."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from commands_at_work import jobs_of
from suites import suite_file
from timed_runs import made_older
from unlucky_executor import Unlucky, carried_out

from benchmarks.analysis.relative_cost import APART, pairings
from benchmarks.harness.executor import Lost
from benchmarks.harness.worker import Job, WorkerEvent
from benchmarks.records.schema import Run, RunSpec
from benchmarks.records.storage import read_run, run_folder


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return suite_file(tmp_path, weighters=["uniform", "random", "dwa"])


def trained_earlier(suite: Path, age: timedelta) -> list[Job]:
    """Uniform, random and DWA to train, of which uniform was trained so much earlier."""
    jobs = jobs_of(suite, "uniform", "random", "dwa")
    carried_out(jobs[:1], Unlucky())
    made_older(suite, age)
    return jobs


def recorded(job: Job) -> Run:
    return read_run(run_folder(job.folder, job.spec.key))


def test_uniform_is_timed_again_once_where_it_lies_too_far_back(suite: Path) -> None:
    uniform, random, dwa = jobs = trained_earlier(suite, 2 * APART)
    before = recorded(uniform)
    found = carried_out(jobs[1:], executor := Unlucky(), [job.spec for job in jobs])
    assert executor.started == [job.spec.key for job in (uniform, random, dwa)]
    assert [row.spec.key for row in found.recorded] == [random.spec.key, dwa.spec.key]
    assert found.complete
    after = recorded(uniform)
    assert len(after.record.timings) == len(before.record.timings) + 1
    assert after.record.metrics == before.record.metrics
    for job in jobs[1:]:
        assert pairings([recorded(job)], [before])[0].why == "trained more than 15 minutes from uniform"
        # On a busy machine a run may have to wait.
        assert pairings([recorded(job)], [after])[0].why in ("", "had to wait for a processor")


def test_it_is_not_where_it_was_trained_of_late(suite: Path) -> None:
    jobs = trained_earlier(suite, APART / 2)
    carried_out(jobs[1:], executor := Unlucky(), [job.spec for job in jobs])
    assert executor.started == [job.spec.key for job in jobs[1:]]


def test_it_is_not_where_it_is_to_be_trained_itself(suite: Path) -> None:
    jobs = jobs_of(suite, "uniform", "random")
    carried_out(jobs, executor := Unlucky(), [job.spec for job in jobs])
    assert executor.started == [job.spec.key for job in jobs]


@pytest.mark.parametrize("again", [True, False])
def test_where_that_fails_it_is_told_and_not_tried_again(again: bool, suite: Path) -> None:
    uniform, random, dwa = jobs = trained_earlier(suite, 2 * APART)
    before = recorded(uniform)
    found = carried_out(jobs[1:], executor := Unlucky(Lost("gone", again=again)), [job.spec for job in jobs])
    assert executor.started == [job.spec.key for job in (uniform, random, dwa)]
    assert found.complete
    assert [row.state for row in found.recorded] == ["finished", "finished"]
    (warning,) = found.warnings
    assert warning.endswith("trained again beside random: gone")
    assert recorded(uniform).record == before.record


def test_stopped_while_it_is_timed_only_the_planned_runs_are_left(suite: Path) -> None:
    class Interrupted(Unlucky):
        def start(self, slot: int, job: Job) -> None:
            super().start(slot, job)
            signal.raise_signal(signal.SIGINT)

    jobs = trained_earlier(suite, 2 * APART)
    found = carried_out(jobs[1:], executor := Interrupted(), [job.spec for job in jobs])
    assert executor.started == [jobs[0].spec.key]
    assert (found.interrupted, found.unfinished, found.recorded) == (True, 2, [])


def test_what_a_start_takes_does_not_grow_with_the_plan(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is a hash of all settings: thousands of runs must not make thousands of them at every start."""
    made: list[RunSpec] = []
    key = RunSpec.key
    monkeypatch.setattr(RunSpec, "key", property(lambda spec: made.append(spec) or key.__get__(spec)))  # type: ignore[func-returns-value]
    uniform, random = jobs_of(suite, "uniform", "random")

    def keys_of(seeds: int) -> int:
        both = (uniform, random)
        pairs = [replace(job, spec=job.spec.model_copy(update={"seed": seed})) for seed in range(seeds) for job in both]
        made.clear()
        done = WorkerEvent("recorded", state="finished")
        found = carried_out(pairs, Unlucky(*[done] * len(pairs)), [job.spec for job in pairs])
        assert len(found.recorded) == 2 * seeds
        return len(made)

    assert keys_of(40) <= 4 * keys_of(10)
