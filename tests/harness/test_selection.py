"""Selection rules: which model is scored, against evaluations made by hand after every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from selections import STEPS, loop_of

from benchmarks.contract import Evaluation, Split, Training
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.loop import Loop, RunResult, StopRequested

EVALUATED = (0, 5, 10, 15, 20, 22)


def evaluations() -> dict[int, dict[Split, Evaluation]]:
    """Both splits at every evaluated step, from models trained to that step by runs of their own."""
    found: dict[int, dict[Split, Evaluation]] = {}
    loop = loop_of("last")
    loop.begin()
    while True:
        if loop.step in EVALUATED:
            found[loop.step] = {split: loop._measure(split) for split in ("validation", "test")}
        if loop.step == STEPS:
            return found
        loop.train_step()


def scored(selection: str) -> tuple[RunResult, dict[int, dict[Split, Evaluation]]]:
    return loop_of(selection).run(), evaluations()


def lowest(found: dict[int, dict[Split, Evaluation]], split: Split) -> int:
    return min(found, key=lambda step: float((found[step][split].losses / found[0][split].losses).mean()))


@pytest.mark.parametrize(("selection", "split"), [("best_validation", "validation"), ("oracle_on_test", "test")])
def test_the_step_is_the_one_with_the_lowest_relative_losses(selection: str, split: Split) -> None:
    outcome, found = scored(selection)
    step = lowest(found, split)
    assert step < STEPS, "the end must not be the best, or the rule could as well be the last"
    assert (outcome.selection.rule, outcome.selection.step) == (selection, step)
    assert outcome.test == pytest.approx(found[step]["test"].metrics)
    assert outcome.validation == pytest.approx(found[step]["validation"].metrics)


def test_last_is_the_end() -> None:
    outcome, found = scored("last")
    assert outcome.selection.step == STEPS
    assert outcome.test == pytest.approx(found[STEPS]["test"].metrics)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_mean_of_last_k_is_the_mean_over_the_last_evaluations(count: int) -> None:
    outcome, found = scored(f"mean_of_last_{count}")
    last = EVALUATED[-count:]
    assert outcome.selection.step == STEPS
    scored_splits: list[tuple[Split, dict[str, float]]] = [("test", outcome.test), ("validation", outcome.validation)]
    for split, metrics in scored_splits:
        for key, value in metrics.items():
            assert value == pytest.approx(sum(found[step][split].metrics[key] for step in last) / count)


@pytest.mark.parametrize(
    ("selection", "times"), [("best_validation", 1), ("last", 1), ("mean_of_last_3", 3), ("oracle_on_test", 6)]
)
def test_test_is_scored_no_more_often_than_the_rule_needs(selection: str, times: int) -> None:
    loop = loop_of(selection)
    asked: list[str] = []
    measure = loop._measure

    def counting(split: str) -> Evaluation:
        asked.append(split)
        return measure(split)

    loop._measure = counting  # type: ignore[method-assign]
    loop.run()
    assert asked.count("test") == times


@pytest.mark.parametrize("selection", ["best_validation", "last", "mean_of_last_3", "oracle_on_test"])
def test_a_resumed_run_scores_the_same(selection: str, tmp_path: Path) -> None:
    stops = iter([False, False, True])
    first = loop_of(selection, checkpoint=Checkpoint(tmp_path / "state.pt", "key"), should_stop=lambda: next(stops, False))
    with pytest.raises(StopRequested):
        first.run()
    again = loop_of(selection, checkpoint=Checkpoint(tmp_path / "state.pt", "key")).run()
    whole = loop_of(selection).run()
    assert (again.selection, again.test, again.validation) == (whole.selection, whole.test, whole.validation)


@pytest.mark.parametrize("rule", ["best", "mean_of_last_0", "mean_of_last_", "mean_of_last_ten", "oracle"])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValidationError, match="expected best_validation, last, mean_of_last_<k>"):
        Training(steps=10, selection=rule)


def test_more_evaluations_than_there_are_cannot_be_averaged() -> None:
    with pytest.raises(ValidationError, match="mean_of_last_3: expected as many evaluations after the start, found 2"):
        Training(steps=10, evaluate_every=5, selection="mean_of_last_3")


# ---- patience --------------------------------------------------------------------------------------------------------


def chosen_steps(loop: Loop) -> list[tuple[int, int]]:
    """(evaluated step, selected step so far) of every evaluation of a whole run."""
    seen: list[tuple[int, int]] = []
    look = loop.selector.look

    def noting(step: int, *found: Any) -> None:
        look(step, *found)
        seen.append((step, loop.selector.seen.step))

    loop.selector.look = noting  # type: ignore[assignment,method-assign]
    loop.run()
    return seen


@pytest.mark.parametrize("selection", ["best_validation", "oracle_on_test"])
@pytest.mark.parametrize("patience", [1, 2])
def test_patience_stops_after_evaluations_that_were_not_chosen(selection: str, patience: int) -> None:
    whole = chosen_steps(loop_of(selection, lr=0.5))
    in_a_row = [sum(step > chosen for step, _ in whole[: place + 1]) for place, (_, chosen) in enumerate(whole)]
    expected = next(step for (step, _), waited in zip(whole, in_a_row, strict=True) if waited >= patience)
    assert expected < STEPS, "a run to the end would show nothing"
    loop = loop_of(selection, patience, lr=0.5)
    outcome = loop.run()
    assert loop.step == expected
    assert outcome.selection.step == dict(whole)[expected]
    (flag,) = [flag for flag in loop.flags(None) if flag.name == "stopped_early"]
    assert (flag.steps, flag.text) == (expected, f"training stopped at step {expected} of {STEPS}: patience {patience}")


def test_patience_that_does_not_run_out_changes_nothing() -> None:
    patient, plain = loop_of("best_validation", 6), loop_of("best_validation")
    assert patient.run().test == plain.run().test
    assert patient.step == STEPS
    assert "stopped_early" not in {flag.name for flag in patient.flags(None)}


def test_a_resumed_run_waits_as_long(tmp_path: Path) -> None:
    def stopped_after(blocks: int) -> Loop:
        stops = iter([False] * blocks + [True])
        place = Checkpoint(tmp_path / f"{blocks}.pt", "key")
        loop = loop_of("best_validation", 2, lr=0.5, checkpoint=place, should_stop=lambda: next(stops, False))
        with pytest.raises(StopRequested):
            loop.run()
        again = loop_of("best_validation", 2, lr=0.5, checkpoint=place)
        again.run()
        return again

    whole = loop_of("best_validation", 2, lr=0.5)
    whole.run()
    assert [stopped_after(blocks).step for blocks in (0, 1)] == [whole.step] * 2


def test_patience_needs_a_rule_that_chooses() -> None:
    with pytest.raises(ValidationError, match="patience: expected selection best_validation or oracle_on_test, found last"):
        Training(steps=10, selection="last", patience=2)
