"""Checks of replicas, absent tasks and numbers that are not finite. One docstring line each."""

from __future__ import annotations

import torch
from torch import Tensor

from weighting import Observation
from weighting.observation import COUNTS, COUNTS_OF, FIELD_OF, Counts, Field, dimensions_of
from weighting.replaying import after_step, at_start, before_step
from weighting.testing.expectations import all_finite, expect, same, same_state, state_of
from weighting.testing.settings import Subject
from weighting.testing.synthetic import Script, changed, run, script

GUARDS = "guard_counts"


def replicas_are_independent(subject: Subject) -> None:
    """A batch of replicas gives each the weights that it gets alone."""
    for batch_shape, absent in (((3,), False), ((2, 2), True)):
        shown = script(3, 16, batch_shape=batch_shape, absent=absent)
        together = run(subject.make(batch_shape=batch_shape), shown)
        for place in torch.cartesian_prod(*(torch.arange(n) for n in batch_shape)).reshape(-1, len(batch_shape)).tolist():
            alone = shown.changed(lambda field, value, at=tuple(place): value[at])  # type: ignore[misc]
            what = f"weights of replica {tuple(place)} as alone,"
            same(together[:, *place], run(subject.make(), alone), what, rtol=1e-10, atol=1e-12)


def absent_tasks_have_weight_0_and_leave_no_trace(subject: Subject) -> None:
    """Whatever number stands for an absent task's loss, its weight is 0, and others' weights and the state are the same."""
    for batch_shape in ((), (3,)):
        shown = script(3, 16, seed=5, batch_shape=batch_shape, absent=True)
        absent = torch.stack([here for step in shown.steps if (here := step.present) is not None]).logical_not()
        results, states = [], []
        for garbage in (0.0, 1e6, 0.7, float("nan")):
            weighter = subject.make(batch_shape=batch_shape)
            results.append(run(weighter, filled_in(shown, garbage)))
            states.append(state_of(weighter))
            all_finite(results[-1], f"weights with {garbage} for absent tasks")
            same(results[-1][absent], torch.zeros_like(results[-1][absent]), "weight of an absent task")
            same(results[-1], results[0], f"weights with {garbage} for absent tasks")
            same_state(states[-1], states[0], f"with {garbage} for absent tasks", without=GUARDS)


def all_present_is_the_same_said_or_not(subject: Subject) -> None:
    """Counts of 1, a mask of True, and no counts at all are one."""
    shown = script(3, 20)
    silent = run(subject.make(), shown)
    for everywhere in (torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.int64)):
        said = Script(_counted(shown.first, everywhere), [_counted(step, everywhere) for step in shown.steps])
        same(run(subject.make(), said), silent, f"weights with counts of {everywhere.dtype}", rtol=1e-12)


def a_task_absent_at_the_start_may_join(subject: Subject) -> None:
    """The first observation lacks a task; from then on all are there. What stood for it in the first leaves no trace."""
    shown, two = script(3, 20), torch.tensor([True, False, True])
    results = [
        run(subject.make(), filled_in(Script(_counted(shown.first, two), shown.steps), garbage)) for garbage in (0.7, 1e6)
    ]
    all_finite(results[0], "weights of a task that joins late")
    same(results[1], results[0], "weights with another number for the task that was not there at the start,")


def a_step_without_any_task_teaches_nothing_wrong(subject: Subject) -> None:
    """All weights of that step are 0, whether the tasks are absent or not finite, and later ones as if it were either."""
    shown, nobody = script(3, 20), torch.zeros(3, dtype=torch.bool)
    empty, spoilt = Script(shown.first, list(shown.steps)), Script(shown.first, list(shown.steps))
    empty.steps[9] = _counted(shown.steps[9], nobody)
    spoilt.steps[9] = changed(shown.steps[9], lambda field, value: torch.full_like(value, float("nan")))
    results = [run(subject.make(), each) for each in (empty, spoilt)]
    for weights in results:
        same(weights[9], torch.zeros_like(weights[9]), "weights of a step without tasks")
        all_finite(weights, "weights around a step without tasks")
    same(results[1], results[0], "weights around a step whose losses are all NaN")


def what_is_not_finite_is_that_tasks_absence(subject: Subject) -> None:
    """NaN or infinity at the start or later: the same bits as for an absent task, and counted by the guard not_finite."""
    nan, several = float("nan"), (float("nan"), float("inf"), float("-inf"))
    for counts in COUNTS:
        read = any(counts in COUNTS_OF[field] for field in _read_by(subject))
        for batch_shape, values in (((), several), ((2,), (nan,))) if read else (((2,), (nan,)),):
            for bad in values:
                _as_absent(subject, batch_shape, counts, bad)


def _read_by(subject: Subject) -> list[Field]:
    return ["losses", *(field for need, field in FIELD_OF.items() if need in subject.make().needs)]


def _as_absent(subject: Subject, batch_shape: tuple[int, ...], counts: Counts, bad: float) -> None:
    names = [field for field, own in COUNTS_OF.items() if counts in own]
    shown, where = script(3, subject.steps(20), batch_shape=batch_shape), (0, 3, 5, 13)
    lacks_one = torch.tensor([1, 0, 1]).expand(*batch_shape, 3)
    rows = [shown.first, *shown.steps]
    weighter, twin = (subject.make(batch_shape=batch_shape) for _ in range(2))
    read = False
    for step, seen in enumerate(rows):
        spoilt = with_value(seen, counts, 1, bad) if step in where else seen
        lacking = seen.replace(**{counts: lacks_one}) if step in where else seen
        if step == 0:
            read = any(getattr(at_start(weighter, seen), name) is not None for name in names)
            weighter.start(at_start(weighter, spoilt))
            twin.start(at_start(twin, lacking))
            continue
        weights = weighter.weights(before_step(weighter, spoilt))
        all_finite(weights, f"weights in step {step} after a loss of {bad}")
        same(weights, twin.weights(before_step(twin, lacking)), f"weights in step {step}, {bad} as an absence,")
        learned = after_step(weighter, spoilt)
        read = read or any(getattr(learned, name) is not None for name in names)
        weighter.update(learned)
        twin.update(after_step(twin, lacking))
    same_state(state_of(weighter), state_of(twin), f"with {bad} as an absence", without=GUARDS)
    counted = weighter.guards_taken().get("not_finite", 0)
    expect((counted > 0) == read, f"the guard not_finite {'counted' if read else 'untouched'}", counted)
    expect("not_finite" not in twin.guards_taken(), "no guard not_finite for tasks that are absent", twin.guards_taken())


def filled_in(shown: Script, garbage: float) -> Script:
    """The run with ``garbage`` wherever a task is absent."""

    def fill(seen: Observation) -> Observation:
        def change(field: str, value: Tensor) -> Tensor:
            if field in COUNTS:
                return value
            for counts, present in zip(COUNTS, (seen.present, seen.val_present), strict=True):
                for dimension in dimensions_of(field, (counts,)):
                    if present is not None:
                        there = present if len(dimensions_of(field)) == 1 else present.unsqueeze(-3 - dimension)
                        value = torch.where(there, value, torch.full_like(value, garbage))
            return value

        return changed(seen, change)

    return Script(fill(shown.first), [fill(step) for step in shown.steps])


def with_value(seen: Observation, counts: Counts, task: int, value: float) -> Observation:
    """The observation with ``value`` for one task of the batch with these counts, but for the counts."""

    def change(field: str, values: Tensor) -> Tensor:
        for dimension in dimensions_of(field, (counts,)) if field not in COUNTS else ():
            values = values.index_fill(dimension, torch.tensor([task]), value)
        return values

    return changed(seen, change)


def _counted(seen: Observation, counts: Tensor) -> Observation:
    return seen.replace(counts=counts, val_counts=counts)
