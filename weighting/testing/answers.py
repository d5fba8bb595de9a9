"""Checks of a method's answers: shapes, types, numbers, and that nothing else is touched. One docstring line each."""

from __future__ import annotations

import copy
from dataclasses import fields

import torch
from torch import Tensor

from weighting import Needs, Observation, RunFacts
from weighting._build import hyperparameters_of
from weighting.replaying import after_step, at_start, before_step, go_on
from weighting.testing.elsewhere import elsewhere
from weighting.testing.expectations import all_finite, expect, refusal, same, same_state, state_of
from weighting.testing.settings import NUM_TASKS, Subject, short, subjects_of
from weighting.testing.synthetic import half_way, run, script

BATCH_SHAPES: tuple[tuple[int, ...], ...] = ((), (4,), (2, 3))


def weights_have_the_shape_of_the_losses(subject: Subject) -> None:
    """(*batch_shape, K), finite, without a gradient, never below float32 whatever the losses' dtype."""
    for batch_shape in BATCH_SHAPES:
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            shown = script(3, 12, batch_shape=batch_shape, dtype=dtype)
            weights = run(subject.make(batch_shape=batch_shape), shown)
            expect(weights.shape == (12, *batch_shape, 3), f"weights of shape {(*batch_shape, 3)}", tuple(weights.shape[1:]))
            wanted = torch.promote_types(dtype, torch.float32)
            expect(weights.dtype == wanted, f"weights in {wanted} for losses in {dtype}", weights.dtype)
            all_finite(weights, f"weights for losses in {dtype}")
            expect(not weights.requires_grad, "weights without a gradient")


def any_number_of_tasks_will_do(subject: Subject) -> None:
    """One task, two, and two hundred: finite weights, some of them above 0."""
    for num_tasks, steps in ((1, subject.steps(20)), (2, subject.steps(20)), (200, subject.steps(8))):
        weights = run(subject.make(num_tasks), script(num_tasks, steps))
        expect(weights.shape == (steps, num_tasks), f"weights of shape ({num_tasks},)", tuple(weights.shape[1:]))
        all_finite(weights, f"weights of {num_tasks} tasks")
        expect((weights.amax(-1) > 0).all(), f"a weight above 0 among {num_tasks} tasks in every step")


def losses_with_a_graph_leave_none_behind(subject: Subject) -> None:
    """Losses with a graph, as a loop passes them: same weights, no gradient in the state, none in a parameter."""
    shown = script(3, 12, dtype=torch.float32)
    parameter = torch.nn.Parameter(torch.ones(3))

    def with_graph(field: str, value: Tensor) -> Tensor:
        return value * parameter

    weighter = subject.make()
    expect(not list(weighter.parameters()), "state in buffers", "parameters")
    weights = run(weighter, shown.changed(with_graph))
    expect(not weights.requires_grad, "weights without a graph")
    expect(not any(value.requires_grad for value in weighter.buffers()), "a state without a graph")
    expect(parameter.grad is None, "no gradient in a parameter", parameter.grad)
    expect((parameter == 1).all(), "the model's parameters as they were", parameter)
    same(weights, run(subject.make(), shown), "weights for losses with a graph")


def weights_given_are_the_callers(subject: Subject) -> None:
    """Learning does not change weights already given, and the caller's changes to them do not reach the method."""
    for batch_shape in BATCH_SHAPES[:2]:
        shown = script(3, 12, batch_shape=batch_shape)
        expected = run(subject.make(batch_shape=batch_shape), shown)
        weighter = subject.make(batch_shape=batch_shape)
        weighter.start(at_start(weighter, shown.first))
        for step, right in zip(shown.steps, expected, strict=True):
            weights = weighter.weights(before_step(weighter, step))
            same(weights, right, "weights after the caller changed earlier ones")
            kept = weights.clone()
            weighter.update(after_step(weighter, step))
            same(weights, kept, "weights already given, after update,")
            weights[..., 0] = -5.0
            same(weights[..., 1:], right[..., 1:], "other tasks' weights after one was changed in place")
            weights.fill_(1e6)


def observations_stay_as_they_are(subject: Subject) -> None:
    """No tensor that the method is shown changes."""
    for absent in (False, True):
        shown = script(3, 12, absent=absent)
        before = copy.deepcopy(shown)
        run(subject.make(), shown)
        for seen, was in zip([shown.first, *shown.steps], [before.first, *before.steps], strict=True):
            for field in fields(Observation):
                value, old = getattr(seen, field.name), getattr(was, field.name)
                if value is not None:
                    same(value, old, f"{field.name} after the method saw it")


def asking_changes_nothing(subject: Subject) -> None:
    """weights() twice gives the same and leaves the state alone; so does wants()."""
    for absent in (False, True):
        shown = script(3, 12, absent=absent)
        weighter = subject.make()
        weighter.start(at_start(weighter, shown.first))
        for step in shown.steps:
            before, seen = state_of(weighter), before_step(weighter, step)
            same(weighter.weights(seen), weighter.weights(seen), "the same weights when asked again")
            same_state(state_of(weighter), before, "after weights()")
            weighter.wants()
            same_state(state_of(weighter), before, "after wants()")
            weighter.update(after_step(weighter, step))


def prints_its_hyperparameters(subject: Subject) -> None:
    """repr() is one line with the number of tasks and every hyperparameter, defaults included."""
    text = repr(subject.make())
    expect("\n" not in text, "one line", text)
    values = {**hyperparameters_of(subject.kind), **short(subject.kind, **subject.more), "num_tasks": NUM_TASKS}
    unset = {"prior": None, "losses_from": subject.kind.losses_from}
    for name, value in values.items():
        if (name, value) not in unset.items():
            expect(f"{name}={value!r}" in text, f"{name}={value!r}", text)


def probes_are_numbers_of_the_state(subject: Subject) -> None:
    """probes() gives tensors for each task, or one number a replica, without a graph; asking changes nothing."""
    for batch_shape in BATCH_SHAPES[:2]:
        shown = script(3, 12, batch_shape=batch_shape)
        weighter = subject.make(batch_shape=batch_shape)
        weighter.start(at_start(weighter, shown.first))
        for step in shown.steps:
            before, found = state_of(weighter), weighter.probes()
            same_state(state_of(weighter), before, "after probes()")
            kept = {name: _probe(name, value, batch_shape).clone() for name, value in found.items()}
            go_on(weighter, [step])
            for name, value in found.items():
                same(value, kept[name], f"probe {name!r} already given, after update,")


def _probe(name: str, value: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
    shapes = ((*batch_shape, 3), batch_shape)
    expect(tuple(value.shape) in shapes, f"probe {name!r} of shape {shapes[0]} or {shapes[1]}", tuple(value.shape))
    expect(not value.requires_grad, f"probe {name!r} without a graph", "one")
    return value


def wants_no_more_than_it_needs(subject: Subject) -> None:
    """wants() is within needs, in every step."""
    weighter, shown = subject.make(), script(3, 20)
    weighter.start(at_start(weighter, shown.first))
    for step in shown.steps:
        expect(weighter.wants() & ~weighter.needs == Needs.NOTHING, f"wants() within {weighter.needs}", weighter.wants())
        go_on(weighter, [step])


def answers_come_from_where_it_says(subject: Subject) -> None:
    """answers_from "state": the same answer whatever this step's losses are, and without any; "losses": another one."""
    weighter, _, _ = half_way(subject.make, script(3, 26, absent=True))
    answers_from, differs = weighter.answers_from, False
    expect(answers_from in ("state", "losses"), 'answers_from "state" or "losses"', repr(answers_from))
    for step in script(3, 12, seed=4).steps:
        now = before_step(weighter, step)
        losses = torch.as_tensor(now.losses)
        other = weighter.weights(now.replace(losses=losses * torch.tensor([5.0, 0.2, 3.0], dtype=losses.dtype)))
        answer = weighter.weights(now)
        differs = differs or not torch.equal(answer, other)
        if answers_from == "state":
            same(other, answer, 'with answers_from "state", for other losses of this step, a weight')
            counted = now.replace(counts=[3, 1, 2])
            bare = weighter.weights(counted.replace(losses=None))
            same(bare, weighter.weights(counted), "a weight without losses")
        weighter.update(after_step(weighter, step))
    expect(
        differs or answers_from == "state",
        'answers_from "state" where no answer depends on this step\'s losses',
        repr(answers_from),
    )


def a_prior_multiplies_the_weights(subject: Subject) -> None:
    """prior: constants that multiply the weights, and nothing else."""
    shown, prior = script(3, 20, absent=True), torch.tensor([20.0, 1.0, 0.5], dtype=torch.float64)
    same(run(subject.make(prior=prior), shown), prior * run(subject.make(), shown), "weights with a prior")


# ---- once for a method -----------------------------------------------------------------------------------------------


def defaults_and_search_are_its_own(subject: Subject) -> None:
    """defaults_for and search name hyperparameters that exist, with values that are taken, for the shortest of runs too."""
    kind = subject.kind
    known = set(hyperparameters_of(kind))
    for facts in (RunFacts(1000, 50, 8, 3), RunFacts(1, 1, 1, 0)):
        defaults = kind.defaults_for(facts)
        expect(set(defaults) <= known, f"defaults_for to name {', '.join(sorted(known))}", sorted(set(defaults) - known))
        all_finite(
            run(Subject(kind, defaults).make(2), script(2, facts.steps % 97)), f"weights with the defaults of {facts}"
        )
    expect(set(kind.search) <= known, f"search to name {', '.join(sorted(known))}", sorted(set(kind.search) - known))
    for key, values in kind.search.items():
        for value in values:
            Subject(kind, {key: value}).make()


def mistakes_are_one_line(subject: Subject) -> None:
    """Wrong numbers of tasks, unknown hyperparameters, other shapes and what is no observation: one line with its name."""
    name = subject.kind.name
    wrong: tuple[object, ...] = (0, -1, True, 2.5, float("nan"), "3", None)
    for number in wrong:
        with refusal(name, "num_tasks", repr(number)):
            subject.make(number)  # type: ignore[arg-type]
    with refusal(name, "unknown hyperparameter 'no_such_thing'", *hyperparameters_of(subject.kind)):
        subject.make(no_such_thing=1)
    for batch_shape in BATCH_SHAPES[:2]:
        for other in (script(2, 3, batch_shape=batch_shape), script(3, 3, batch_shape=(*batch_shape, 5))):
            with refusal(name, "of shape", str((*batch_shape, 3))):
                run(subject.make(batch_shape=batch_shape), other)
    for call in ("start", "weights", "update"):
        with refusal(f"{name}.{call}", "expected an Observation", by=TypeError):
            getattr(subject.make(), call)(torch.ones(3))


def numbers_are_the_same_in_another_process(subject: Subject) -> None:
    """All settings give the same weights, to the last bit, in a process of its own."""
    here = weights_by_setting(subject.kind)
    there = elsewhere(weights_by_setting, subject.kind)
    for label, weights in here.items():
        expect(there[label] == weights, f"the same weights of {label} in another process", "others")


def weights_by_setting(kind: type) -> dict[str, list[list[float]]]:
    """Label -> weights of a short run, for comparison with another process."""
    return {each.label: run(each.make(), script(3, 30)).tolist() for each in subjects_of(kind)}
