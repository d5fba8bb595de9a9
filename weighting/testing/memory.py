"""Checks of a method's state: saving, copying, casting, starting again. One docstring line each."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn

from weighting import Weighter
from weighting.replaying import at_start, go_on
from weighting.testing.expectations import State, all_finite, expect, refusal, same, same_state, state_of
from weighting.testing.settings import Subject
from weighting.testing.synthetic import Script, changed, half_way, run, script


class Model(nn.Module):
    """A model with a weighter inside."""

    def __init__(self, weighter: Weighter) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.weighter = weighter


def state_is_float64_and_in_buffers(subject: Subject) -> None:
    """Numbers of the state are float64 whatever the dtype of the losses, and no parameters."""
    weighter = subject.make()
    expect(not list(weighter.parameters()), "no parameters", [name for name, _ in weighter.named_parameters()])
    run(weighter, script(3, 12, dtype=torch.float32))
    _numbers_in(weighter, torch.float64)


def resumes_from_its_state(subject: Subject) -> None:
    """StopRequested at any step, saved, and loaded into a new instance, it goes on with the same numbers; loading copies."""
    shown = script(3, 40, absent=True)
    expected = run(subject.make(), shown)
    for stop in (0, 1, 25):
        stopped, resumed = subject.make(), subject.make()
        stopped.start(at_start(stopped, shown.first))
        if stop:
            go_on(stopped, shown.steps[:stop])
        saved = through_a_file(stopped)
        resumed.load_state_dict(saved)
        same(go_on(resumed, shown.steps[stop:]), expected[stop:], f"weights after a resume at step {stop}")
        same_state(saved, state_of(stopped), "that was saved, once another instance went on with it")


def goes_back_to_an_earlier_state(subject: Subject) -> None:
    """Loading an earlier state undoes all that came after it."""
    shown = script(3, 40)
    weighter = subject.make()
    run(weighter, Script(shown.first, shown.steps[:10]))
    early = through_a_file(weighter)
    once = go_on(weighter, shown.steps[10:])
    weighter.load_state_dict(early)
    same(go_on(weighter, shown.steps[10:]), once, "weights after going back")


def guard_counts_survive_saving(subject: Subject) -> None:
    """What its guards counted, in a run with losses of 0 and NaN, is part of the state, and named in guards."""
    shown = script(3, 20)
    steps = [
        changed(step, lambda field, value, t=t: value * (float("nan") if t == 3 else 0.0))  # type: ignore[misc]
        if t < 6
        else step
        for t, step in enumerate(shown.steps)
    ]
    weighter = subject.make()
    run(weighter, Script(changed(shown.first, lambda field, value: value * 0), steps))
    taken = weighter.guards_taken()
    expect(set(taken) <= set(weighter.guards), f"guards among {', '.join(weighter.guards)}", ", ".join(taken))
    expect(taken.get("not_finite", 0) > 0, "the guard not_finite taken", taken)
    resumed = subject.make()
    resumed.load_state_dict(through_a_file(weighter))
    expect(resumed.guards_taken() == taken, f"guards {taken} after loading", resumed.guards_taken())


def goes_on_after(way: Callable[[Weighter], Weighter]) -> Callable[[Subject], None]:
    """A check that the method goes on as if nothing had happened, with its state real and as precise as before."""

    def check(subject: Subject) -> None:
        weighter, twin, rest = half_way(subject.make, script(3, 26, absent=True))
        after = way(weighter)
        expect(not any(value.is_meta for value in after.buffers()), "a state with numbers in it", "one on the meta device")
        _numbers_in(after, torch.float64)
        same(go_on(after, rest.steps), go_on(twin, rest.steps), "weights of a twin to which nothing was done,")

    check.__doc__ = way.__doc__
    return check


def _copied(weighter: Weighter) -> Weighter:
    """copy.deepcopy and pickle bring the state along."""
    found: Weighter = pickle.loads(pickle.dumps(copy.deepcopy(weighter)))
    return found


def _cast(weighter: Weighter) -> Weighter:
    """Inside a model that is cast to bfloat16 and float16 and moved to the CPU and to the meta device."""
    return Model(weighter).to(torch.bfloat16).half().to("cpu").to("meta").weighter


def _started_again(weighter: Weighter) -> Weighter:
    """start() a second time changes nothing."""
    weighter.start(at_start(weighter, script(3, 1, seed=9).first))
    return weighter


goes_on_after_copies = goes_on_after(_copied)
goes_on_after_casts_of_the_model = goes_on_after(_cast)
goes_on_after_a_second_start = goes_on_after(_started_again)


def starting_after_a_resume_changes_nothing(subject: Subject) -> None:
    """start() on an instance that was loaded half-way, as loops call it, changes nothing."""
    weighter, twin, rest = half_way(subject.make, script(3, 26, absent=True))
    resumed = subject.make()
    resumed.load_state_dict(through_a_file(weighter))
    same(go_on(_started_again(resumed), rest.steps), go_on(twin, rest.steps), "weights after a start on a loaded state")


def follows_a_cast_to_single_precision_and_back(subject: Subject) -> None:
    """float() makes the state float32, and weights stay near those of float64; double() makes it float64 again."""
    for batch_shape in ((), (2,)):
        shown = script(3, 40, batch_shape=batch_shape)
        weighter = subject.make(batch_shape=batch_shape).to(torch.float32)
        weights = run(weighter, Script(shown.first, shown.steps[:30]))
        expect(weights.dtype == torch.float64, "weights in the losses' float64", weights.dtype)
        _numbers_in(weighter, torch.float32)
        expected = run(subject.make(batch_shape=batch_shape), shown)
        same(weights, expected[:30], "weights near those of float64,", rtol=0.01, atol=1e-3)
        weighter.double()
        same(go_on(weighter, shown.steps[30:]), expected[30:], "weights near those of float64,", rtol=0.01, atol=1e-3)
        _numbers_in(weighter, torch.float64)


def reset_is_a_fresh_start(subject: Subject) -> None:
    """reset() gives the numbers of a new instance, keeps the prior and clears the guards."""
    weighter, _, _ = half_way(lambda: subject.make(prior=[1.0, 2.0, 3.0]), script(3, 26, absent=True))
    weighter.reset()
    expect(not weighter.guards_taken(), "no guards taken after reset()", weighter.guards_taken())
    shown = script(3, 26, seed=3)
    same(run(weighter, shown), run(subject.make(prior=[1.0, 2.0, 3.0]), shown), "weights after reset()")


def created_under_the_meta_device_it_is_real(subject: Subject) -> None:
    """Created under torch.device("meta"), as large models are, it has a real state and the usual weights."""
    with torch.device("meta"):
        weighter = subject.make()
    shown = script(3, 20)
    same(run(weighter, shown), run(subject.make(), shown), "weights when created under the meta device")


def memory_that_nobody_filled_is_one_error(subject: Subject) -> None:
    """A state left uninitialised by whoever loads models is one clear error, and reset() mends it."""
    weighter, _, rest = half_way(subject.make, script(3, 26, absent=True))

    def garbage(value: Tensor) -> Tensor:
        return value if value.is_floating_point() else torch.full_like(value, 7)

    with torch.no_grad():
        weighter._apply(garbage)
    with refusal(subject.kind.name, "expected a state that was created or loaded, found memory", by=RuntimeError):
        go_on(weighter, rest.steps)
    weighter.reset()
    same(run(weighter, rest), run(subject.make(), rest), "weights after reset() of such a state")


def through_a_file(weighter: Weighter) -> State:
    """The state, saved and loaded with weights_only."""
    buffer = io.BytesIO()
    torch.save(weighter.state_dict(), buffer)
    buffer.seek(0)
    loaded: State = torch.load(buffer, weights_only=True)
    return loaded


def _numbers_in(weighter: Weighter, dtype: torch.dtype) -> None:
    for name, value in weighter.named_buffers():
        if value.is_floating_point():
            expect(value.dtype == dtype, f"state {name!r} in {dtype}", value.dtype)
            if not bool(value.isnan().any()):
                all_finite(value, f"state {name!r}")
