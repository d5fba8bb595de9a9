"""Relative cost: which runs count as trained together, what is said of the others, and pairs that are trained again."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fake_runs
import pytest
import regression_runs
from command_line import train
from suites import suite_file
from timed_runs import made_older

from benchmarks.analysis.relative_cost import APART, Pairing, own_timing, pairings, ratios, timed_lately, without_pair
from benchmarks.analysis.scores import RELATIVE
from benchmarks.analysis.section_tables import section_tables
from benchmarks.analysis.sections import sections
from benchmarks.planning.status import plan_status
from benchmarks.records import provenance
from benchmarks.records.schema import Run, Timing
from benchmarks.records.storage import read_run, run_folders, write_run
from benchmarks.regression import step_cost

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LONG = timedelta(minutes=4)


def run(
    method: str = "famo", seed: int = 0, *, after: timedelta = timedelta(0), seconds: float = 1.0, **changes: Any
) -> Run:
    """A run of four minutes that starts some time after the first."""
    made = fake_runs.make(method, seed, seconds=seconds, hyperparameters={"for": method})
    started = BEGIN + after
    times = {"started": started.isoformat(), "ended": (started + LONG).isoformat()}
    return Run(made.record.model_copy(update={**times, **changes}), made.trajectory)


def pair(own: Run, uniform: Run) -> Pairing:
    return pairings([own], [uniform])[own.seed]


# ---- what is a pair --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [timedelta(0), LONG / 2, LONG, LONG + APART, -LONG, -(LONG + APART)], ids=str)
def test_runs_trained_together_are_a_pair_whichever_came_first(after: timedelta) -> None:
    assert pair(run(after=after, seconds=3.0), run("uniform", seconds=2.0)) == Pairing(1.5)


TOO_LONG = LONG + APART + timedelta(seconds=1)


@pytest.mark.parametrize("after", [TOO_LONG, -TOO_LONG, timedelta(days=3)])
def test_runs_trained_apart_are_none(after: timedelta) -> None:
    found = pair(run(after=after), run("uniform"))
    assert math.isnan(found.ratio)
    assert found.why == "trained more than 15 minutes from uniform"
    assert ratios([run(after=after)], [run("uniform")]) == {}


def test_long_runs_that_overlap_are_a_pair() -> None:
    ended = (BEGIN + timedelta(hours=9)).isoformat()
    assert pair(run(after=timedelta(hours=8)), run("uniform", ended=ended)).why == ""


@pytest.mark.parametrize("fact", ["host", "processor", "device"])
def test_runs_of_two_machines_are_none(fact: str) -> None:
    one, other = ({"host": "a", "processor": "p", "device": "d", fact: name} for name in ("x", "y"))
    assert pair(run(machine=one), run("uniform", machine=other)).why == "trained on another machine than uniform"
    assert pair(run(machine=one), run("uniform", machine=one)).why == ""


@pytest.mark.parametrize("fact", ["executor", "process"])
def test_runs_by_two_executors_are_none(fact: str) -> None:
    one, other = ({"host": "a", "executor": "ray 2", "process": "own", fact: name} for name in ("x", "y"))
    assert pair(run(machine=one), run("uniform", machine=other)).why == "trained by another executor than uniform"
    assert pair(run(machine=one), run("uniform", machine=one)).why == ""


def test_two_gpus_of_one_machine_are_alike() -> None:
    one, other = ({"host": "a", "gpu": "kind", "gpu_id": name} for name in ("x", "y"))
    assert pair(run(machine=one), run("uniform", machine=other)).why == ""


def test_what_an_older_record_does_not_say_is_no_difference() -> None:
    old, new = {"processor": "p"}, {"processor": "p", "host": "a"}
    assert pair(run(machine=old), run("uniform", machine=new)).why == ""
    # Without an end the run is taken to have ended after its training.
    assert pair(run(ended=None), run("uniform", ended=None)).why == ""


@pytest.mark.parametrize("who", ["famo", "uniform"])
def test_a_run_that_waited_for_a_processor_is_in_no_pair(who: str) -> None:
    runs = {"famo": run(), "uniform": run("uniform")}
    runs[who] = fake_runs.disturbed(runs[who])
    assert pair(runs["famo"], runs["uniform"]).why == "had to wait for a processor"


@pytest.mark.parametrize("started", ["", "yesterday"])
def test_a_time_that_cannot_be_read_is_no_pair(started: str) -> None:
    assert pair(run(started=started), run("uniform")).why == "not known when they were trained"


def test_a_run_that_was_resumed_counts_by_its_last_part_if_that_is_the_larger() -> None:
    costs = run().record.costs
    assert costs is not None
    long = costs.model_copy(update={"train_seconds": LONG.total_seconds()})
    assert own_timing(run(costs=long, resumed=1).record) is not None
    longer = costs.model_copy(update={"train_seconds": 2.1 * LONG.total_seconds()})
    assert own_timing(run(costs=longer, resumed=1).record) is None
    assert own_timing(run(costs=longer).record) is not None


def test_the_nearest_of_several_timings_counts() -> None:
    late = timedelta(hours=2)
    again = Timing(
        started=(BEGIN + late).isoformat(),
        ended=(BEGIN + late + LONG).isoformat(),
        seconds_per_step=4.0,
        disturbed=False,
        machine=run().record.machine,
    )
    uniform = run("uniform", seconds=2.0, timings=(again,))
    assert pair(run(seconds=6.0), uniform).ratio == 3.0
    assert pair(run(after=late, seconds=6.0), uniform).ratio == 1.5
    waited = run("uniform", timings=(again.model_copy(update={"disturbed": True}),))
    assert pair(run(after=late), waited).why == "had to wait for a processor"


def test_reasons_name_methods_and_seeds() -> None:
    apart, none = Pairing(math.nan, "apart"), Pairing(math.nan, "no uniform")
    found = {"famo": {0: apart, 2: apart, 1: Pairing(1.0)}, "coba": {0: none}}
    assert without_pair(found) == ["apart: famo, seed 0, 2", "no uniform: coba, seed 0"]


# ---- what tables and gates make of it --------------------------------------------------------------------------------


def test_the_cost_table_counts_pairs_and_names_what_has_none() -> None:
    later = timedelta(hours=1)
    runs = [run(name, seed) for name in ("uniform", "famo") for seed in (0, 1, 2)]
    runs += [run("coba", seed, after=later) for seed in (0, 1, 2)] + [run("dwa", 0), run("dwa", 1, after=later)]
    (section,), _ = sections(runs)
    (table,) = [table for table in section_tables(section).others if table.title == "Cost"]
    rows = table.frame.set_index("method")
    assert rows["cost_pairs"].to_dict() == {"uniform": 3, "famo": 3, "coba": 0, "dwa": 1}
    assert rows[RELATIVE].isna().to_dict() == {"uniform": False, "famo": False, "coba": True, "dwa": False}
    assert "Not paired: trained more than 15 minutes from uniform: dwa, seed 1; coba, seed 0, 1, 2." in table.notes


def test_the_gate_judges_pairs_only() -> None:
    def side(after: timedelta) -> dict[str, dict[int, Run]]:
        return {
            "uniform": {seed: run("uniform", seed) for seed in (0, 1)},
            "famo": {seed: run("famo", seed, after=after, seconds=3.0) for seed in (0, 1)},
        }

    together, apart = side(LONG), side(timedelta(hours=1))
    assert step_cost.judge("pictures", "famo", (together, "famo"), (together, "famo")).state == "ok"
    for base, head, where in ((together, apart, "this run"), (apart, together, "the baseline")):
        verdict = step_cost.judge("pictures", "famo", (base, "famo"), (head, "famo"))
        assert verdict.state == "not judged"
        assert verdict.reason == f"no undisturbed runs of the method and of uniform that were trained together in {where}"


# ---- pairs that are trained again ------------------------------------------------------------------------------------


def recorded(path: Path) -> dict[tuple[str, int], Run]:
    runs = [read_run(place) for place in run_folders(path.parent / "out" / "mine")]
    return {(each.label, each.seed): each for each in runs if each.record.run.role == "method"}


@pytest.mark.slow
def test_uniform_is_trained_again_beside_a_method_that_is_trained_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suite_file(tmp_path, seeds=[0, 1])
    assert train(path) == 0
    made_older(path, timedelta(hours=1))
    before = recorded(path)
    suite_file(tmp_path, seeds=[0, 1], weighters=["uniform", "dwa"])
    capsys.readouterr()
    assert train(path, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "(2 of them again, for the time of a step beside runs that are trained now)" in said
    assert said.count("again     ") == 2
    assert "as the pair of dwa" in said

    assert train(path) == 0
    after = recorded(path)
    for seed in (0, 1):
        old, new = before["uniform", seed], after["uniform", seed]
        assert new.trajectory.equals(old.trajectory)
        assert new.record.model_copy(update={"timings": ()}) == old.record
        (timing,) = new.record.timings
        assert timed_lately(new.record, provenance.host(), datetime.now(UTC))
        assert pair(after["dwa", seed], new).why in ("", "had to wait for a processor")
        assert datetime.fromisoformat(timing.started) > datetime.fromisoformat(old.record.ended or "")
    # All is there now: nothing is trained again, however old it becomes.
    made_older(path, timedelta(hours=1))
    assert train(path) == 0
    assert recorded(path)["uniform", 0].record.timings == after["uniform", 0].record.timings


def test_only_the_seeds_of_what_is_to_do_are_trained_again(tmp_path: Path) -> None:
    path = suite_file(tmp_path, seeds=[0, 1], weighters=["uniform", "dwa"])
    plan = regression_runs.plan(path)
    folder = tmp_path / "out" / "mine"
    for spec in plan.runs:
        made = regression_runs.run(spec, "mine")
        if (spec.weighter.label, spec.seed) != ("dwa", 1):
            write_run(folder / "runs", made.record, made.trajectory)
    stock = plan_status(folder, plan.runs)
    again = [(spec.weighter.label, spec.seed) for spec in plan.runs if spec.key in stock.pairs]
    assert again == [("uniform", 1)]
    assert {(spec.weighter.label, spec.seed) for spec in stock.to_do.values()} == {("dwa", 1), ("uniform", 1)}
    # Single-task runs and trials have no pair.
    dwa = next(spec for spec in plan.runs if (spec.weighter.label, spec.seed) == ("dwa", 1))
    made = regression_runs.run(dwa, "mine")
    write_run(folder / "runs", made.record, made.trajectory)
    alone = next(spec for spec in plan.runs if spec.role == "single_task")
    for place in run_folders(folder):
        if place.name == alone.key:
            for part in place.iterdir():
                part.unlink()
            place.rmdir()
    stock = plan_status(folder, plan.runs)
    assert (stock.pairs, list(stock.to_do)) == ({}, [alone.key])
