"""What every listed method must do, whatever it computes: the contract of ``weighting.testing``, and the list itself."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from all_methods import weights_of_all
from asked import ask_all
from places import ROOT
from scripts import SETTINGS, every_subject, make

import weighting
from weighting import METHODS, Needs, Observation, Weighter, _gramian, cagrad, nash_mtl_official
from weighting._build import hyperparameters_of
from weighting.observation import FIELD_OF
from weighting.replaying import at_start, go_on
from weighting.testing import answers, devices
from weighting.testing.contract import IN_EVERY_SETTING, ONCE, Check
from weighting.testing.elsewhere import elsewhere
from weighting.testing.settings import Subject, short
from weighting.testing.synthetic import Script, run, script

ELSEWHERE = answers.numbers_are_the_same_in_another_process
ON_THE_DEVICE = devices.everything_stays_on_the_device_of_the_losses
ROUNDS = (
    (_gramian, "ROUNDS"),
    (_gramian, "INTERIOR_STEPS"),
    (_gramian, "NEWTON_STEPS"),
    (cagrad, "ROUNDS"),
    (nash_mtl_official, "POINT_ROUNDS"),
)
"""Of the solvers, at most."""

every_listed = pytest.mark.parametrize("listed", METHODS)

NEGATIVE_IS_ALLOWED = {"min_losses", "initial_log_variance", "initial_log_scale"}
ZERO_IS_ALLOWED = NEGATIVE_IS_ALLOWED | {
    *(
        "alpha",
        "beta",
        "c",
        "gamma",
        "momentum",
        "rho",
        "weight_decay",
        "warmup",
        "seed",
        "mix",
        "initial_steps",
        "restart_every",
        "floor",
    )
}
"""Hyperparameters; all other numbers must be positive."""
FAVOURS_THE_FASTEST = ("softadapt", "beta")
"""The method and hyperparameter that the paper has below 0 too."""


def one_line(error: pytest.ExceptionInfo[ValueError], *words: str) -> bool:
    text = str(error.value)
    return "\n" not in text and all(word in text for word in words)


# ---- the list --------------------------------------------------------------------------------------------------------


def test_a_variant_is_of_a_method_that_is_none() -> None:
    variants = [kind for kind in METHODS.values() if kind.variant_of is not None]
    assert variants
    for kind in variants:
        assert kind.variant_of in METHODS and METHODS[kind.variant_of].variant_of is None
        assert weighting.family(kind.name) == weighting.family(str(kind.variant_of)) == kind.variant_of


def test_every_method_file_is_listed() -> None:
    found = set()
    for path in (ROOT / "weighting").glob("*.py"):
        module = importlib.import_module("weighting" if path.stem == "__init__" else f"weighting.{path.stem}")
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, Weighter) and kind.__module__ == module.__name__:
                found.add(kind)
    assert {kind for kind in found if not kind.__name__.startswith("_")} - {Weighter} == set(METHODS.values())


def test_listed_under_its_own_name() -> None:
    for listed, kind in METHODS.items():
        assert kind.name == listed
        assert weighting.method(listed) is kind
        assert listed in weighting.names()


def test_says_where_it_comes_from() -> None:
    for listed, kind in METHODS.items():
        text = inspect.getmodule(kind).__doc__ or ""
        assert all(f"\n{word}" in text for word in ("Source", "Symbols", "Departs")), listed


# ---- the contract ----------------------------------------------------------------------------------------------------


@every_subject
def test_contract_in_every_setting(subject: Subject) -> None:
    asked = {**IN_EVERY_SETTING, ON_THE_DEVICE.__name__: in_few_rounds(ON_THE_DEVICE)}
    ask_all(subject.label, ((name, partial(check, subject)) for name, check in asked.items()))


def in_few_rounds(check: Check) -> Check:
    """Where no number can be seen, a solver takes all the rounds it may; two hold every operation of two hundred."""

    def asked(subject: Subject) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ROUNDS:
                patch.setattr(module, name, 2)
            check(subject)

    return asked


def test_contract_of_methods() -> None:
    for listed in METHODS:
        asked = ((name, partial(check, Subject(METHODS[listed]))) for name, check in ONCE.items() if check is not ELSEWHERE)
        ask_all(listed, asked)


@pytest.mark.slow
def test_numbers_are_the_same_in_another_process() -> None:
    """Of all methods in one process, as starting it takes longer than all that it does; the check itself on one method."""
    ELSEWHERE(Subject(METHODS["random"]))
    here, there = weights_of_all(Weighter), elsewhere(weights_of_all, Weighter)
    assert [name for name in METHODS if here[name] != there[name]] == []


def test_every_check_says_what_it_means() -> None:
    checks = [*IN_EVERY_SETTING.values(), *ONCE.values()]
    assert all((check.__doc__ or "").strip() for check in checks)


def test_observation_detaches() -> None:
    losses = torch.ones(2, requires_grad=True) * 2
    seen = Observation(losses=losses, grad_norms=losses)
    assert seen.losses is not None and seen.grad_norms is not None
    assert not seen.losses.requires_grad and not seen.grad_norms.requires_grad
    later = seen.replace(val_losses=losses)
    assert later.val_losses is not None and not later.val_losses.requires_grad
    assert losses.requires_grad


# ---- errors ----------------------------------------------------------------------------------------------------------


@every_listed
def test_missing_fields_are_named(listed: str) -> None:
    for name, more in SETTINGS:
        if name == listed:
            missing_fields_are_named(name, more)


def missing_fields_are_named(name: str, more: dict[str, Any]) -> None:
    shown = script(3, 12)
    wanted = wanted_in(name, more, shown)
    weighter = make(name, **more)
    read = [] if name in WITHOUT_LOSSES or weighter.losses_from == "validation" else ["losses"]
    for field in (*read, *(FIELD_OF[need] for need in wanted)):
        lacking = [changed_without(step, field) for step in shown.steps]
        with pytest.raises(ValueError, match=rf"^{name}: .*'{field}'") as error:
            run(make(name, **more), Script(shown.first, lacking))
        assert one_line(error)


OF_ALL_TASKS = Needs.GRAMIAN | Needs.CROSS_GRAMIAN
WITHOUT_LOSSES = (
    *("uniform", "static", "token_mean", "random"),
    *(name for name, kind in METHODS.items() if OF_ALL_TASKS & kind.needs and kind.answers_from == "state"),
)
"""Methods that answer and learn without any."""


def changed_without(seen: Observation, field: str) -> Observation:
    return seen.replace(**dict.fromkeys([field]))


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
    assert set(FIELD_OF) == set(Needs)


@every_listed
def test_masks_of_a_wrong_shape_are_refused(listed: str) -> None:
    shown = script(3, 12)
    wrong = [step.replace(counts=torch.ones(2, dtype=torch.bool)) for step in shown.steps]
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


@every_listed
def test_an_unknown_hyperparameter_is_answered_with_the_nearest(listed: str) -> None:
    known = hyperparameters_of(METHODS[listed])
    for right in known:
        with pytest.raises(ValueError, match=rf"did you mean '{right}'\?") as error:
            weighting.create(listed, 3, **{f"{right}_": 1})
        assert one_line(error)


def wrong_values(listed: str) -> Iterator[tuple[str, Any]]:
    """(hyperparameter, value) that the method must refuse."""
    for key, default in hyperparameters_of(METHODS[listed]).items():
        values: list[Any] = []
        if isinstance(default, str):
            values = ["nonsense", 3, None]
        elif isinstance(default, int | float) and not isinstance(default, bool):
            values = [float("nan"), float("inf"), float("-inf"), True, "1", "high", None, [True] * 3]
            values += [] if key in NEGATIVE_IS_ALLOWED or (listed, key) == FAVOURS_THE_FASTEST else [-1, -0.5]
            values += [] if key in ZERO_IS_ALLOWED else [0, 0.0]
            values += [1.5] if isinstance(default, int) else []
        yield from ((key, value) for value in values)


@every_listed
def test_values_out_of_range_are_refused(listed: str) -> None:
    refused = ((f"{key}={value!r}", partial(value_is_refused, listed, key, value)) for key, value in wrong_values(listed))
    ask_all(listed, refused)


def value_is_refused(listed: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{listed}: expected .*\b{key}\b") as error:
        weighting.create(listed, 3, **{**short(METHODS[listed]), key: value})
    shown = repr(value[0]) if isinstance(value, list) else repr(value)
    assert one_line(error, shown)


@pytest.mark.parametrize("key", sorted(ZERO_IS_ALLOWED))
def test_zero_is_taken_where_it_makes_sense(key: str) -> None:
    having = [name for name, kind in METHODS.items() if key in hyperparameters_of(kind)]
    if key == "warmup":
        # That code fits its first slopes in the warm-up.
        having.remove("coba_mftcoder")
    if key == "alpha":
        # Shares that are 0-fair would be no shares.
        having.remove("fairgrad")
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
    with pytest.raises(ValueError, match=r"^coba_mftcoder: expected ") as error:
        weighting.create("coba_mftcoder", 3, **more)
    assert one_line(error, words)


@pytest.mark.parametrize("momentum", [1, 1.0, 1.5])
def test_momentum_stays_below_one(momentum: float) -> None:
    with pytest.raises(ValueError, match=r"^uncertainty: expected momentum .* below 1, found 1"):
        weighting.create("uncertainty", 3, optimizer="sgd", momentum=momentum)
