"""What every listed method must do, whatever it computes. A new method is covered by being listed."""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import (
    SETTING_IDS,
    SETTINGS,
    Script,
    after_step,
    at_start,
    before_step,
    changed,
    go_on,
    make,
    run,
    script,
)
from subjects import KINDS, create, short
from torch import Tensor

import weighting
from weighting import METHODS, Needs, Observation, RunFacts, Weighter
from weighting.factory import hyperparameters_of

ROOT = Path(__file__).resolve().parent.parent

every_method = pytest.mark.parametrize("name", KINDS)
every_listed = pytest.mark.parametrize("listed", METHODS)
every_setting = pytest.mark.parametrize(("name", "more"), SETTINGS, ids=SETTING_IDS)

NEGATIVE_IS_ALLOWED = {"min_losses", "initial_log_variance", "initial_log_scale"}
ZERO_IS_ALLOWED = NEGATIVE_IS_ALLOWED | {
    *("alpha", "gamma", "momentum", "weight_decay", "warmup", "seed", "mix", "initial_steps", "restart_every")
}
"""Hyperparameters; all other numbers must be positive."""


def state(weighter: Weighter) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weighter.state_dict().items()}


def equal_states(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].nan_to_num(-7.5), other[name].nan_to_num(-7.5)) for name in one
    )


def one_line(error: pytest.ExceptionInfo[ValueError], *words: str) -> bool:
    text = str(error.value)
    return "\n" not in text and all(word in text for word in words)


# ---- the list --------------------------------------------------------------------------------------------------------


def test_every_method_file_is_listed() -> None:
    found = set()
    for path in (ROOT / "weighting").glob("*.py"):
        module = importlib.import_module("weighting" if path.stem == "__init__" else f"weighting.{path.stem}")
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, Weighter) and kind.__module__ == module.__name__:
                found.add(kind)
    assert {kind for kind in found if not kind.__name__.startswith("_")} - {Weighter} == set(METHODS.values())


@every_listed
def test_listed_under_its_own_name(listed: str) -> None:
    assert METHODS[listed].name == listed
    assert weighting.method(listed) is METHODS[listed]
    assert listed in weighting.names()


@every_listed
def test_says_where_it_comes_from(listed: str) -> None:
    text = inspect.getmodule(METHODS[listed]).__doc__ or ""
    assert all(f"\n{word}" in text for word in ("Source", "Symbols", "Departs"))


@every_method
def test_defaults_and_search_name_its_own_hyperparameters(name: str) -> None:
    kind = KINDS[name]
    known = set(hyperparameters_of(kind))
    defaults = kind.defaults_for(RunFacts(steps=1000, steps_per_epoch=50, val_batches=8, seed=3))
    assert set(defaults) <= known
    assert set(kind.search) <= known
    create(name, 3, **defaults)
    for key, values in kind.search.items():
        for value in values:
            create(name, 3, **{key: value})


@every_method
def test_defaults_suit_the_shortest_of_runs(name: str) -> None:
    defaults = KINDS[name].defaults_for(RunFacts(steps=1, steps_per_epoch=1, val_batches=1, seed=0))
    weights = run(create(name, 2, **defaults), script(2, 1))
    assert weights.isfinite().all()


# ---- the answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch_shape", [(), (4,), (2, 3)], ids=str)
@every_setting
def test_shape_and_dtype_follow_the_losses(
    name: str, more: dict[str, Any], batch_shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    shown = script(3, 12, batch_shape=batch_shape, dtype=dtype)
    weights = run(make(name, batch_shape=batch_shape, **more), shown)
    assert weights.shape == (12, *batch_shape, 3)
    assert weights.dtype == torch.promote_types(dtype, torch.float32)
    assert weights.isfinite().all()
    assert not weights.requires_grad


@every_setting
def test_state_is_float64_and_in_buffers(name: str, more: dict[str, Any]) -> None:
    weighter = make(name, **more)
    assert list(weighter.parameters()) == []
    run(weighter, script(3, 12, dtype=torch.float32))
    assert {value.dtype for value in weighter.buffers() if value.is_floating_point()} <= {torch.float64}


@every_setting
def test_losses_with_a_graph_leave_none_behind(name: str, more: dict[str, Any]) -> None:
    shown = script(3, 12, dtype=torch.float32)

    def with_graph(field: str, value: Tensor) -> Tensor:
        return value.clone().requires_grad_() * 1.0

    graphs = shown.changed(with_graph)
    weighter = make(name, **more)
    weights = run(weighter, graphs)
    assert not weights.requires_grad
    assert not any(value.requires_grad for value in weighter.buffers())
    assert torch.equal(weights, run(make(name, **more), shown))


def test_observation_detaches() -> None:
    losses = torch.ones(2, requires_grad=True) * 2
    seen = Observation(losses=losses, grad_norms=losses)
    assert seen.losses is not None and seen.grad_norms is not None
    assert not seen.losses.requires_grad and not seen.grad_norms.requires_grad
    later = seen.with_(val_losses=losses)
    assert later.val_losses is not None and not later.val_losses.requires_grad
    assert losses.requires_grad


@pytest.mark.parametrize("batch_shape", [(), (2,)], ids=str)
@every_setting
def test_the_returned_weights_are_the_callers(name: str, more: dict[str, Any], batch_shape: tuple[int, ...]) -> None:
    shown = script(3, 12, batch_shape=batch_shape)
    expected = run(make(name, batch_shape=batch_shape, **more), shown)
    weighter = make(name, batch_shape=batch_shape, **more)
    weighter.start(at_start(weighter, shown.first))
    for step, right in zip(shown.steps, expected, strict=True):
        weights = weighter.weights(before_step(weighter, step))
        kept = weights.clone()
        weighter.update(after_step(weighter, step))
        assert torch.equal(weights, kept), "learning must not change weights already given"
        weights[..., 0] = -5.0
        assert torch.equal(weights[..., 1:], right[..., 1:]), "every weight must have memory of its own"
        weights.fill_(1e6)
        assert torch.equal(kept, right), "the caller's changes must not reach the method"


@pytest.mark.parametrize("absent", [False, True])
@every_setting
def test_the_observed_losses_stay_as_they_are(name: str, more: dict[str, Any], absent: bool) -> None:
    shown = script(3, 12, absent=absent)
    before = copy.deepcopy(shown)
    run(make(name, **more), shown)
    for seen, was in zip([shown.first, *shown.steps], [before.first, *before.steps], strict=True):
        changed(seen, lambda field, value, was=was: _assert_equal(value, getattr(was, field)))  # type: ignore[misc]


def _assert_equal(value: Tensor, was: Tensor) -> Tensor:
    assert torch.equal(value, was)
    return value


@pytest.mark.parametrize("absent", [False, True])
@every_setting
def test_asking_for_weights_changes_nothing(name: str, more: dict[str, Any], absent: bool) -> None:
    shown = script(3, 12, absent=absent)
    weighter = make(name, **more)
    weighter.start(at_start(weighter, shown.first))
    for step in shown.steps:
        before = state(weighter)
        seen = before_step(weighter, step)
        assert torch.equal(weighter.weights(seen), weighter.weights(seen))
        assert equal_states(before, state(weighter))
        weighter.wants()
        assert equal_states(before, state(weighter))
        weighter.update(after_step(weighter, step))


@every_setting
def test_wants_no_more_than_it_needs(name: str, more: dict[str, Any]) -> None:
    weighter = make(name, **more)
    shown = script(3, 20)
    weighter.start(at_start(weighter, shown.first))
    for step in shown.steps:
        assert weighter.wants() & ~weighter.needs == Needs.NOTHING
        go_on(weighter, [step])


@pytest.mark.parametrize("num_tasks", [1, 2, 200])
@every_setting
def test_any_number_of_tasks(name: str, more: dict[str, Any], num_tasks: int) -> None:
    fits = {key: value for key, value in more.items() if not isinstance(value, list)}
    weights = run(make(name, num_tasks, **fits), script(num_tasks, 20))
    assert weights.shape == (20, num_tasks)
    assert weights.isfinite().all()
    assert (weights.sum(-1) > 0).all()


@every_setting
def test_writes_to_no_parameter(name: str, more: dict[str, Any]) -> None:
    """The losses depend on a parameter; the method neither changes it nor gives it a gradient."""
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

    def times_parameter(field: str, value: Tensor) -> Tensor:
        return value if value.dtype == torch.bool else value * parameter

    run(make(name, **more), script(3, 12).changed(times_parameter))
    assert parameter.grad is None
    assert torch.equal(parameter.detach(), torch.ones(3, dtype=torch.float64))


# ---- replicas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("batch_shape", [(4,), (2, 3)], ids=str)
@every_setting
def test_replicas_are_independent(name: str, more: dict[str, Any], batch_shape: tuple[int, ...], absent: bool) -> None:
    shown = script(3, 60, batch_shape=batch_shape, absent=absent)
    together = run(make(name, batch_shape=batch_shape, **more), shown)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in batch_shape)).reshape(-1, len(batch_shape)).tolist():
        alone = run(make(name, **more), shown.changed(lambda field, value, at=tuple(place): value[at]))  # type: ignore[misc]
        torch.testing.assert_close(together[:, *place], alone, rtol=1e-10, atol=1e-12)


# ---- absent tasks ----------------------------------------------------------------------------------------------------


def filled_in(shown: Script, garbage: float) -> Script:
    """The run with ``garbage`` wherever a task is absent."""

    def fill(seen: Observation) -> Observation:
        def change(field: str, value: Tensor) -> Tensor:
            present = seen.val_present if field.startswith("val_losses") else seen.present
            if present is None or field in ("counts", "val_counts"):
                return value
            there = present.unsqueeze(-1) & present.unsqueeze(-2) if field == "gramian" else present
            return torch.where(there, value, torch.full_like(value, garbage))

        return changed(seen, change)

    return Script(fill(shown.first), [fill(step) for step in shown.steps])


@pytest.mark.parametrize("batch_shape", [(), (3,)], ids=str)
@every_setting
def test_absent_tasks_have_no_weight_and_leave_no_trace(
    name: str, more: dict[str, Any], batch_shape: tuple[int, ...]
) -> None:
    shown = script(3, 60, seed=5, batch_shape=batch_shape, absent=True)
    present = torch.stack([here for step in shown.steps if (here := step.present) is not None])
    assert present.any() and not present.all()
    results, states = [], []
    for garbage in (0.0, 1e6, 0.7):
        weighter = make(name, batch_shape=batch_shape, **more)
        results.append(run(weighter, filled_in(shown, garbage)))
        states.append(state(weighter))
        assert (results[-1][~present] == 0).all()
        assert results[-1].isfinite().all()
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert equal_states(states[0], states[1]) and equal_states(states[0], states[2])


@every_setting
def test_all_present_is_the_same_said_or_not(name: str, more: dict[str, Any]) -> None:
    shown = script(3, 30)
    everywhere = torch.ones(3, dtype=torch.bool)

    def say(seen: Observation) -> Observation:
        return seen.with_(counts=everywhere, val_counts=everywhere)

    said = Script(say(shown.first), [say(step) for step in shown.steps])
    torch.testing.assert_close(run(make(name, **more), said), run(make(name, **more), shown), rtol=1e-12, atol=0)


@every_setting
def test_a_task_absent_at_the_start_may_join_without_masks(name: str, more: dict[str, Any]) -> None:
    """The first observation lacks a task; from then on all tasks are there, so nobody passes masks."""
    shown = script(3, 20)
    two = torch.tensor([True, False, True])
    late = filled_in(Script(shown.first.with_(counts=two, val_counts=two), shown.steps), 1e6)
    assert run(make(name, **more), late).isfinite().all()


@every_setting
def test_a_step_without_any_task_teaches_nothing_wrong(name: str, more: dict[str, Any]) -> None:
    shown = script(3, 20)
    nobody = torch.zeros(3, dtype=torch.bool)
    shown.steps[9] = shown.steps[9].with_(counts=nobody, val_counts=nobody)
    weights = run(make(name, **more), shown)
    assert (weights[9] == 0).all()
    assert weights.isfinite().all()


# ---- saving and moving -----------------------------------------------------------------------------------------------


def through_a_file(weighter: Weighter) -> dict[str, Tensor]:
    buffer = io.BytesIO()
    torch.save(weighter.state_dict(), buffer)
    buffer.seek(0)
    loaded: dict[str, Tensor] = torch.load(buffer, weights_only=True)
    return loaded


@pytest.mark.parametrize("stop", [0, 1, 13, 70, 140])
@every_setting
def test_resumes_from_its_state(name: str, more: dict[str, Any], stop: int) -> None:
    shown = script(3, 160, absent=True)
    expected = run(make(name, **more), shown)
    stopped = make(name, **more)
    run(stopped, Script(shown.first, shown.steps[:stop])) if stop else stopped.start(at_start(stopped, shown.first))
    saved = through_a_file(stopped)
    resumed = make(name, **more)
    resumed.load_state_dict(saved)
    assert torch.equal(go_on(resumed, shown.steps[stop:]), expected[stop:])
    assert equal_states(saved, through_a_file(stopped)), "loading must copy"


@every_setting
def test_goes_back_to_an_earlier_state(name: str, more: dict[str, Any]) -> None:
    shown = script(3, 150)
    weighter = make(name, **more)
    run(weighter, Script(shown.first, shown.steps[:10]))
    early = through_a_file(weighter)
    once = go_on(weighter, shown.steps[10:])
    weighter.load_state_dict(early)
    assert torch.equal(go_on(weighter, shown.steps[10:]), once)


@every_setting
def test_guard_counts_survive_saving(name: str, more: dict[str, Any]) -> None:
    def begins_at_zero(t: int, step: Observation) -> Observation:
        return changed(step, lambda field, value: value * 0 if t < 6 else value)

    shown = script(3, 20)
    weighter = make(name, **more)
    run(weighter, Script(begins_at_zero(0, shown.first), [begins_at_zero(t, step) for t, step in enumerate(shown.steps)]))
    taken = weighter.guards_taken()
    assert set(taken) <= set(weighter.guards)
    assert all(count > 0 for count in taken.values())
    resumed = make(name, **more)
    resumed.load_state_dict(through_a_file(weighter))
    assert resumed.guards_taken() == taken


@pytest.mark.parametrize("batch_shape", [(), (2,)], ids=str)
@every_setting
def test_moves_to_single_precision_and_back(name: str, more: dict[str, Any], batch_shape: tuple[int, ...]) -> None:
    shown = script(3, 80, batch_shape=batch_shape)
    weighter = make(name, batch_shape=batch_shape, **more).to(torch.float32)
    weights = run(weighter, Script(shown.first, shown.steps[:70]))
    assert weights.dtype == torch.float64
    assert weights.isfinite().all()
    assert {value.dtype for value in weighter.buffers() if value.is_floating_point()} <= {torch.float32}
    weighter.double()
    assert go_on(weighter, shown.steps[70:]).isfinite().all()
    assert {value.dtype for value in weighter.buffers() if value.is_floating_point()} <= {torch.float64}


def numbers_of_all() -> dict[str, str]:
    """Setting -> hash of its weights, for comparison with another process."""
    shown = script(3, 30)
    return {
        label: hashlib.sha256(run(make(name, **more), shown).numpy().tobytes()).hexdigest()
        for label, (name, more) in zip(SETTING_IDS, SETTINGS, strict=True)
    }


def test_same_numbers_in_another_process() -> None:
    code = """
import json, sys, torch
sys.path[:0] = sys.argv[1:]
torch.set_num_threads(1)
from test_weighter_contract import numbers_of_all
print(json.dumps(numbers_of_all()))
"""
    command = [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == numbers_of_all()


# ---- errors ----------------------------------------------------------------------------------------------------------


FIELD_OF = {
    Needs.VAL_LOSSES: "val_losses",
    Needs.LOSSES_AFTER_STEP: "losses_after",
    Needs.GRAD_NORMS: "grad_norms",
    Needs.GRAMIAN: "gramian",
    Needs.VAL_LOSSES_BEFORE_STEP: "val_losses_before",
}


@every_listed
def test_missing_fields_are_named(listed: str) -> None:
    for name, more in SETTINGS:
        if name == listed:
            missing_fields_are_named(name, more)


def missing_fields_are_named(name: str, more: dict[str, Any]) -> None:
    shown = script(3, 12)
    wanted = wanted_in(name, more, shown)
    weighter = make(name, **more)
    read = [] if name in WITHOUT_LOSSES or weighter.feedback == "validation" else ["losses"]
    for field in (*read, *(FIELD_OF[need] for need in wanted)):
        lacking = [changed_without(step, field) for step in shown.steps]
        with pytest.raises(ValueError, match=rf"^{name}: .*'{field}'") as error:
            run(make(name, **more), Script(shown.first, lacking))
        assert one_line(error)


WITHOUT_LOSSES = ("uniform", "static", "random")
"""Methods that answer and learn without any."""


def changed_without(seen: Observation, field: str) -> Observation:
    lacking: dict[str, Tensor | None] = {field: None}
    return seen.with_(**lacking)


def wanted_in(name: str, more: dict[str, Any], shown: Script) -> Needs:
    """All that the setting wants during a run."""
    weighter = make(name, **more)
    weighter.start(at_start(weighter, shown.first))
    wanted = Needs.NOTHING
    for step in shown.steps:
        wanted |= weighter.wants()
        go_on(weighter, [step])
    return wanted


def test_every_need_has_a_field() -> None:
    assert set(FIELD_OF) == {need for need in Needs if need}


@pytest.mark.parametrize("batch_shape", [(), (2,)], ids=str)
@every_listed
def test_losses_of_a_wrong_shape_are_refused(listed: str, batch_shape: tuple[int, ...]) -> None:
    for wrong in (script(2, 3, batch_shape=batch_shape), script(3, 3, batch_shape=(*batch_shape, 5))):
        with pytest.raises(ValueError, match=rf"^{listed}: expected \w+ of shape") as error:
            run(make(listed, 3, batch_shape=batch_shape), wrong)
        assert one_line(error, str((*batch_shape, 3)))


@every_listed
def test_masks_of_a_wrong_shape_are_refused(listed: str) -> None:
    shown = script(3, 12)
    wrong = [step.with_(counts=torch.ones(2, dtype=torch.bool)) for step in shown.steps]
    with pytest.raises(ValueError, match=rf"^{listed}: expected counts of shape") as error:
        run(make(listed), Script(shown.first, wrong))
    assert one_line(error, "(3,)", "(2,)")


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown weighter 'gradnrom'; did you mean 'gradnorm'") as error:
        weighting.create("gradnrom", 3)
    assert one_line(error, *METHODS)
    with pytest.raises(ValueError, match="unknown weighter 'zzz'; known: ") as error:
        weighting.create("zzz", 3)
    assert one_line(error)


@every_method
def test_an_unknown_hyperparameter_is_answered_with_the_known_ones(name: str) -> None:
    known = hyperparameters_of(KINDS[name])
    with pytest.raises(ValueError, match=rf"^{name}: unknown hyperparameter 'qqq'; known: ") as error:
        create(name, 3, qqq=1)
    assert one_line(error, *known)
    for right in known:
        with pytest.raises(ValueError, match=rf"did you mean '{right}'\?") as error:
            create(name, 3, **{f"{right}_": 1})
        assert one_line(error)


@pytest.mark.parametrize("num_tasks", [0, -1, True, 2.0, float("nan"), "3", None], ids=repr)
@every_method
def test_wrong_numbers_of_tasks_are_refused(name: str, num_tasks: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected num_tasks") as error:
        create(name, num_tasks)
    assert one_line(error, repr(num_tasks))


def wrong_values() -> list[tuple[str, str, Any]]:
    """(method, hyperparameter, value) that must be refused."""
    found: list[tuple[str, str, Any]] = []
    for name, kind in METHODS.items():
        for key, default in hyperparameters_of(kind).items():
            values: list[Any] = []
            if isinstance(default, str):
                values = ["nonsense", 3, None]
            elif isinstance(default, int | float) and not isinstance(default, bool):
                values = [float("nan"), float("inf"), float("-inf"), True, "1", "high", None, [True] * 3]
                values += [] if key in NEGATIVE_IS_ALLOWED else [-1, -0.5]
                values += [] if key in ZERO_IS_ALLOWED else [0, 0.0]
                values += [1.5] if isinstance(default, int) else []
            found += [(name, key, value) for value in values]
    return found


@pytest.mark.parametrize(("listed", "key", "value"), wrong_values(), ids=str)
def test_values_out_of_range_are_refused(listed: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{listed}: expected .*\b{key}\b") as error:
        weighting.create(listed, 3, **{**short(METHODS[listed]), key: value})
    shown = repr(value[0]) if isinstance(value, list) else repr(value)
    assert one_line(error, shown)


@pytest.mark.parametrize("key", sorted(ZERO_IS_ALLOWED))
def test_zero_is_taken_where_it_makes_sense(key: str) -> None:
    having = [name for name, kind in METHODS.items() if key in hyperparameters_of(kind)]
    assert having
    for name in having:
        weighting.create(name, 3, **{key: 0})


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, 2.0], "3 numbers, one per task, found 2"),
        ([1.0, 2.0, 3.0, 4.0], "3 numbers, one per task, found 4"),
        ([], "3 numbers, one per task, found 0"),
        ([1.0, -2.0, 3.0], "at least 0, found -2.0"),
        ([0.0, 0.0, 0.0], "the sum of weights to be a finite number above 0, found 0.0"),
        ([1.0, float("nan"), 1.0], "found nan"),
        ([1.0, float("inf"), 1.0], "found inf"),
        ([1.0, True, 1.0], "found True"),
        ([1.0, "2", 1.0], "found '2'"),
        ("111", "found '1'"),
    ],
    ids=str,
)
def test_static_weights_out_of_range_are_refused(weights: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"^static: expected .*weights") as error:
        weighting.create("static", 3, weights=weights)
    assert one_line(error, words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"warmup": 2, "window": 10}, "at least 3"),
        ({"warmup": 7, "window": 10, "update_every": 2}, "a multiple of update_every = 2, at least 6"),
        ({"warmup": 20, "window": 19}, "at least warmup / update_every = 20"),
        ({"window": 1}, "found 1"),
    ],
    ids=str,
)
def test_coba_settings_that_do_not_go_together(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"^coba: expected ") as error:
        weighting.create("coba", 3, variant="mftcoder", **more)
    assert one_line(error, words)


@pytest.mark.parametrize("momentum", [1, 1.0, 1.5])
def test_momentum_stays_below_one(momentum: float) -> None:
    with pytest.raises(ValueError, match=r"^uncertainty: expected momentum .* below 1, found 1"):
        weighting.create("uncertainty", 3, optimizer="sgd", momentum=momentum)
