"""Every property that a method claims, on generated runs; and for every property a broken method that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from asked import ask_all
from broken_weighters import BROKEN, Broken
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scripts import SETTINGS, every_setting, make
from torch import Tensor

import weighting
from weighting import Claim, Observation, Weighter
from weighting.observation import dimensions_of
from weighting.testing import claims as checkers
from weighting.testing import claims_on_gradients
from weighting.testing.claims import CHECKERS, CLAIMS_FOR_LARGE_LOSSES, in_larger_units, num_tasks_of, scaled
from weighting.testing.settings import Subject
from weighting.testing.synthetic import Script, changed, in_order, run, script, times_factors

CLAIMED: list[tuple[str, dict[str, Any], Claim]] = [
    (name, more, claim) for name, more in SETTINGS for claim in make(name, **more).claims
]


def shown_side_by_side(name: str, more: dict[str, Any], shown: list[Script]) -> list[tuple[Script, Tensor]]:
    """Runs of as many tasks and steps, shown to one instance as its replicas; each with its weights ``(T, K)``."""
    rows = [Observation(**_stacked(step)) for step in zip(*([each.first, *each.steps] for each in shown), strict=True)]
    weighter = make(name, num_tasks_of(shown[0]), batch_shape=(len(shown),), **more)
    return list(zip(shown, run(weighter, Script(rows[0], rows[1:])).unbind(1), strict=True))


def _stacked(seen: tuple[Observation, ...]) -> dict[str, Tensor]:
    values = {field.name: [getattr(each, field.name) for each in seen] for field in fields(Observation)}
    return {name: torch.stack(there) for name, there in values.items() if there[0] is not None}


def ask_claims(
    name: str,
    more: dict[str, Any],
    claims: Iterable[Claim],
    shown: Script,
    seed: int,
    made_before: Iterable[tuple[Script, Tensor]] = (),
) -> None:
    """Every checker on one run. The run as it is they have in common, and it is made once."""
    large = in_larger_units(shown) if any(claim in CLAIMS_FOR_LARGE_LOSSES for claim in claims) else shown
    made = partial(make, name, num_tasks_of(shown), **more)
    with runs_made_once(made_before):
        asked = ((claim, large if claim in CLAIMS_FOR_LARGE_LOSSES else shown) for claim in claims)
        ask_all(
            Subject(weighting.METHODS[name], more).label,
            ((claim.label, partial(CHECKERS[claim], made, on, seed)) for claim, on in asked),
        )


@contextmanager
def runs_made_once(made: Iterable[tuple[Script, Tensor]] = ()) -> Iterator[None]:
    """Inside, a run that was shown to a new instance of the one method before is not shown again.

    made  runs with their weights that were shown before
    """
    known = list(made)

    def remembered(weighter: Weighter, shown: Script) -> Tensor:
        for before, weights in known:
            if before is shown:
                return weights.clone()
        known.append((shown, run(weighter, shown)))
        return known[-1][1].clone()

    with mock.patch.object(checkers, "run", remembered), mock.patch.object(claims_on_gradients, "run", remembered):
        yield


def test_every_claim_has_a_checker_and_a_broken_method() -> None:
    assert {claim for _, _, claim in CLAIMED} == set(CHECKERS) == set(Claim)
    assert {kind.breaks for kind in BROKEN} == set(Claim)
    assert [checker.__name__ for checker in CHECKERS.values()] == [claim.label for claim in CHECKERS]


def test_sums_are_claimed_once() -> None:
    for name, more in SETTINGS:
        assert Claim.SUMS_TO_ONE | Claim.SUMS_TO_NUM_TASKS not in make(name, **more).claims


@every_setting
@hypothesis_settings(max_examples=8)
@given(
    num_tasks=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    magnitude=st.sampled_from([1e-3, 1.0, 1e4, 1e9]),
    roughness=st.sampled_from([0.01, 0.1, 1.0]),
)
def test_claims_hold(name: str, more: dict[str, Any], num_tasks: int, seed: int, magnitude: float, roughness: float) -> None:
    shown = script(num_tasks, 30, seed=seed, magnitude=magnitude, roughness=roughness)
    ask_claims(name, more, make(name, **more).claims, shown, seed)


FOR_ANY_POSITIVE_LOSSES = Claim.NONNEGATIVE | Claim.SUMS_TO_ONE | Claim.SUMS_TO_NUM_TASKS
positive = st.floats(1e-6, 1e6, allow_subnormal=False)


@st.composite
def any_runs(draw: st.DrawFn) -> list[Script]:
    """Some of as many tasks, whose losses hypothesis picks number by number: equal ones, jumps, extremes."""
    num_tasks = draw(st.integers(1, 4))
    return [draw(any_run(num_tasks)) for _ in range(3)]


@st.composite
def any_run(draw: st.DrawFn, num_tasks: int) -> Script:
    rows = draw(st.lists(st.lists(positive, min_size=num_tasks, max_size=num_tasks), min_size=2, max_size=12))
    base = script(num_tasks, 30)
    seen = [base.first, *base.steps]

    def pick(t: int, field: str, value: Tensor) -> Tensor:
        later = {"losses": 0, "val_losses": 1, "losses_after": 2}
        return torch.tensor(rows[(t + later[field]) % len(rows)], dtype=torch.float64) if field in later else value

    picked = [changed(row, lambda field, value, t=t: pick(t, field, value)) for t, row in enumerate(seen)]  # type: ignore[misc]
    return Script(picked[0], picked[1:])


@every_setting
@hypothesis_settings(max_examples=3)
@given(shown=any_runs())
def test_claims_on_sums_hold_for_any_positive_losses(name: str, more: dict[str, Any], shown: list[Script]) -> None:
    claims = make(name, **more).claims & FOR_ANY_POSITIVE_LOSSES
    made = shown_side_by_side(name, more, shown) if claims else []
    for each, _ in made:
        ask_claims(name, more, claims, each, 0, made)


def constant(field: str, value: Tensor) -> Tensor:
    return value if len(dimensions_of(field)) == 2 else torch.full_like(value, 0.7)


def one_task_at_zero(field: str, value: Tensor) -> Tensor:
    zero = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    return times_factors(field, value, zero)


def all_tasks_at_zero(field: str, value: Tensor) -> Tensor:
    return torch.zeros_like(value)


def begins_at_zero() -> Script:
    shown = script(3, 30)
    early = [changed(step, one_task_at_zero) for step in shown.steps[:10]]
    return Script(changed(shown.first, one_task_at_zero), early + shown.steps[10:])


def from_step_ten(change: Callable[[str, Tensor], Tensor]) -> Script:
    shown = script(3, 30)
    return Script(shown.first, [step if t < 10 else changed(step, change) for t, step in enumerate(shown.steps)])


def equal_tasks() -> Script:
    """All tasks have the same numbers: gradients of rank one."""

    def repeat(field: str, value: Tensor) -> Tensor:
        return in_order(field, value, torch.zeros(3, dtype=torch.int64))

    return script(3, 30).changed(repeat)


EDGE_CASES: dict[str, Callable[[], Script]] = {
    "constant": lambda: script(3, 30).changed(constant),
    "scale 1e15": lambda: script(3, 30, magnitude=1e15),
    "scale 1e-15": lambda: script(3, 30, magnitude=1e-15),
    "scales apart": lambda: scaled(script(3, 30), torch.tensor([1e-9, 1.0, 1e9], dtype=torch.float64)),
    "rough": lambda: script(3, 30, roughness=5.0),
    "equal tasks": equal_tasks,
    "one task begins at zero": begins_at_zero,
    "one task at zero": lambda: from_step_ten(one_task_at_zero),
    "all tasks at zero": lambda: from_step_ten(all_tasks_at_zero),
}


@every_setting
def test_finite_and_true_to_its_sum_in_edge_cases(name: str, more: dict[str, Any]) -> None:
    claims, label = make(name, **more).claims & FOR_ANY_POSITIVE_LOSSES, Subject(weighting.METHODS[name], more).label
    made = shown_side_by_side(name, more, [edge_case() for edge_case in EDGE_CASES.values()])

    def holds(shown: Script, weights: Tensor) -> None:
        assert weights.isfinite().all()
        ask_claims(name, more, claims, shown, 0, made)

    ask_all(label, ((edge_case, partial(holds, *each)) for edge_case, each in zip(EDGE_CASES, made, strict=True)))


# ---- the checkers themselves -----------------------------------------------------------------------------------------


def runs_for_checkers() -> list[Script]:
    return [in_larger_units(script(3, 30, seed=seed, roughness=0.3)) for seed in range(5)]


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.name)
def test_a_broken_method_is_caught_by_its_own_claim(kind: type[Broken]) -> None:
    for seed, shown in enumerate(runs_for_checkers()):
        with pytest.raises(AssertionError):
            CHECKERS[kind.breaks](lambda: kind(3), shown, seed + 1)


@pytest.mark.parametrize(
    ("kind", "claim"),
    [pytest.param(kind, claim, id=f"{kind.name}-{claim.label}") for kind in BROKEN for claim in kind.keeps],
)
def test_a_broken_method_passes_what_it_keeps(kind: type[Broken], claim: Claim) -> None:
    for seed, shown in enumerate(runs_for_checkers()):
        CHECKERS[claim](lambda: kind(3), shown, seed)


def test_famo_feels_the_scale_only_through_its_constant() -> None:
    """D = L + 1e-8: at losses near 1e-6 the constant is a hundredth, and a common factor shows."""
    now = torch.tensor([1e-6, 3e-6], dtype=torch.float64)
    small, large = (make("famo", 2).weights(Observation(losses=now * factor)) for factor in (1.0, 1e6))
    torch.testing.assert_close(small, large, rtol=0.02, atol=0)
    assert not torch.allclose(small, large, rtol=1e-3, atol=0)
