"""One step is the same step whatever a method asks for besides, however it is split, and after a stop and a resume."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_double import (
    CodeLmInDouble,
    FamoToyInDouble,
    GradNormToyInDouble,
    MultiDigitsInDouble,
    RowsInDouble,
    SparseInDouble,
    TinyInDouble,
)
from loops import loop_of, settings
from scripts import SETTING_IDS, SETTINGS, every_setting, make
from tiny_problem import Spy, Tiny
from tiny_variants import FrozenTiny, NoisyTiny, Sparse
from torch import Tensor, nn

import weighting
from benchmarks.contract import Batch, Problem, Training
from benchmarks.harness.checkpoint import Checkpoint
from benchmarks.harness.loop import DivergedError, Loop, StopRequested
from benchmarks.harness.selection import Selector
from benchmarks.problems import code_lm
from benchmarks.regression.golden_runs import SMALL
from weighting import Needs, Weighter
from weighting.gradients import gradient_norms

EVERYTHING = ~Needs.NOTHING
OF_ALL_TASKS = Needs.GRAMIAN | Needs.CROSS_GRAMIAN


class AsksForAll(Spy):
    """Uniform weights of a half, and every need there is."""

    name = "asks_for_all"
    needs = EVERYTHING


MOST = [need for need in Needs if need not in OF_ALL_TASKS]
KINDS = ("batch norm", "dropout", "numpy")
LAST = settings(steps=20, selection="last", log_every=1, evaluate_every=7)


def results(loop: Loop) -> dict[str, Any]:
    outcome = loop.run()
    return {
        "test": outcome.test,
        "trajectory": loop.trajectory.frame(),
        "parameters": {name: value.clone() for name, value in loop.model.state_dict().items()},
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["test"] == other["test"]
    assert one["trajectory"].equals(other["trajectory"])
    for name, value in one["parameters"].items():
        assert torch.equal(value, other["parameters"][name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asks", [*MOST, EVERYTHING & ~OF_ALL_TASKS], ids=str)
def test_asking_for_more_trains_the_same_model(kind: str, asks: Needs) -> None:
    plain = results(loop_of(AsksForAll(3, asks=Needs.NOTHING), LAST, NoisyTiny(kind=kind)))
    torch.manual_seed(99)
    assert_same(results(loop_of(AsksForAll(3, asks=asks), LAST, NoisyTiny(kind=kind))), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop_after", [1, 7, 12])
def test_a_resumed_run_is_the_same_run(kind: str, stop_after: int, tmp_path: Path) -> None:
    whole = results(loop_of(AsksForAll(3), LAST, NoisyTiny(kind=kind)))
    asked = iter(range(1, 100))
    stopped = loop_of(AsksForAll(3), LAST, NoisyTiny(kind=kind), checkpoint=Checkpoint(tmp_path, "run"))
    stopped.should_stop = lambda: next(asked) == stop_after
    with pytest.raises(StopRequested):
        stopped.run()
    # As in another process.
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    assert_same(results(loop_of(AsksForAll(3), LAST, NoisyTiny(kind=kind), checkpoint=Checkpoint(tmp_path, "run"))), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asks", [Needs.CROSS_GRAMIAN, EVERYTHING], ids=["cross-Gramian", "all"])
def test_asking_for_gradients_of_all_tasks_trains_the_same_model_up_to_rounding(asks: Needs, kind: str) -> None:
    """The update is summed over the tasks' gradients instead of passed back as one; Adam would divide by the rounding."""
    training = LAST.model_copy(update={"optimizer": "sgd"})
    plain, other = (
        results(loop_of(AsksForAll(3, asks=each), training, NoisyTiny(kind=kind))) for each in (Needs.NOTHING, asks)
    )
    for name, value in plain["parameters"].items():
        torch.testing.assert_close(other["parameters"][name], value, msg=name)


def test_extra_passes_leave_generators_and_modes_as_they_were() -> None:
    loop = loop_of(AsksForAll(3), LAST, NoisyTiny(kind="dropout"))
    loop.begin()
    frozen = loop.model.get_submodule("between").eval()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002
    loop.stepper.validation_losses(3)
    loop._measure("validation")
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index] # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert not frozen.training and loop.model.training


# ---- micro-batches ---------------------------------------------------------------------------------------------------


def accumulated(problem: Problem, weighter: Weighter, parts: int, steps: int) -> tuple[Loop, list[Any]]:
    changes = {"steps": steps, "accumulate": parts, "batch_size": min(7, problem.training.batch_size)}
    training = Training.model_validate({**problem.training.model_dump(), **changes})
    loop = loop_of(weighter, training, problem)
    loop.begin()
    return loop, [loop.train_step() for _ in range(steps)]


def assert_whole(one: tuple[Loop, list[Any]], other: tuple[Loop, list[Any]]) -> None:
    for whole, parts in zip(one[1], other[1], strict=True):
        there = ~whole.absent
        torch.testing.assert_close(parts.losses[there], whole.losses[there], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(parts.weights, whole.weights, rtol=1e-11, atol=1e-12)
        assert torch.equal(whole.absent, parts.absent)
    for name, value in one[0].model.state_dict().items():
        torch.testing.assert_close(other[0].model.state_dict()[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [TinyInDouble, RowsInDouble, SparseInDouble])
@every_setting
def test_micro_batches_are_the_batch(name: str, more: dict[str, Any], kind: type[Problem]) -> None:
    whole = accumulated(kind(), make(name, **more), 1, 8)
    for parts in (2, 3):
        assert_whole(whole, accumulated(kind(), make(name, **more), parts, 8))
    if kind is SparseInDouble:
        assert any(bool(result.absent.any()) for result in whole[1])


SMALL_PROBLEMS: dict[str, tuple[type[Problem], dict[str, Any]]] = {
    "multidigits": (MultiDigitsInDouble, SMALL["multidigits"]),
    "gradnorm_toy": (GradNormToyInDouble, SMALL["gradnorm_toy"]),
    "famo_toy": (FamoToyInDouble, {}),
    "code_lm": (CodeLmInDouble, dict(code_lm.CodeLM.small)),
}


ANY_SIGN = ("uniform", "static", "random", "imtl_l", "famo")
"""Methods that are made for losses below 0 too, as those of famo_toy are."""
PAIRS = [
    pytest.param(name, method, marks=[pytest.mark.slow] if name == "code_lm" else [])
    for name in SMALL_PROBLEMS
    for method in (ANY_SIGN if name == "famo_toy" else weighting.names())
]


@functools.cache
def small_problem(name: str) -> Problem:
    """Made once for all methods."""
    kind, options = SMALL_PROBLEMS[name]
    return kind(**options)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_micro_batches_of_listed_problems(name: str, method: str) -> None:
    problem = small_problem(name)

    def weighter() -> Weighter:
        more = {"min_losses": -30.0} if (name, method) == ("famo_toy", "famo") else {}
        return make(method, problem.num_tasks, batch_shape=problem.batch_shape, **more)

    assert_whole(accumulated(problem, weighter(), 1, 4), accumulated(problem, weighter(), 2, 4))


@pytest.mark.parametrize(("name", "forwards"), [("uniform", 0), ("dwa", 0), ("gls", 1), ("famo", 2), ("coba", 1)])
def test_methods_that_read_the_losses_are_charged_a_pass(name: str, forwards: int) -> None:
    loop, _ = accumulated(TinyInDouble(), make(name), 2, 5)
    assert loop.stepper.extra_forwards == 5 * forwards


def test_too_few_rows_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^tiny: expected at least 9 rows to make 9 micro-batches, found 8$"):
        loop_of(make("uniform"), settings(accumulate=9)).run()


# ---- absent and not finite -------------------------------------------------------------------------------------------


def test_absent_is_no_zero_in_the_record() -> None:
    loop = loop_of(make("uniform"), settings(log_every=1), Sparse())
    loop.run()
    rows = loop.trajectory.frame().query("step < 20")
    absent = rows[rows["count"] == 0]
    assert len(absent) > 0
    assert absent["weight"].isna().all() and absent["train_loss"].isna().all()
    there = rows[rows["count"] > 0]
    assert (there["weight"] == 1).all() and there["train_loss"].notna().all()
    assert loop.diagnostics.mean_weights() == {"small": 1.0, "medium": 1.0, "large": 1.0}


@pytest.mark.parametrize("name", weighting.names())
@pytest.mark.parametrize("spoil", ["nan", "infinite"])
def test_a_present_loss_that_is_not_finite_ends_the_run_and_names_the_task(name: str, spoil: str) -> None:
    loop = loop_of(make(name), problem=Tiny(spoil=spoil, spoil_at=12))
    with pytest.raises(DivergedError, match=r"^loss of small is not finite$") as told:
        loop.run()
    assert told.value.step == 12


class SpoiltValidation(Tiny):
    """One validation mini-batch without a single number."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().losses(model, batch)
        return losses * float("nan") if batch["x"].shape[0] == 8 and not model.training and self.bad(batch) else losses

    def bad(self, batch: Batch) -> bool:
        assert self.drawn is not None
        return torch.equal(batch["x"], self.drawn.validation_batch(1)["x"])


def test_a_bad_validation_batch_is_a_flag() -> None:
    loop = loop_of(make("coba"), problem=SpoiltValidation())
    loop.run()
    flags = {flag.name: flag for flag in loop.flags(None)}
    assert "guard:not_finite" in flags
    assert loop.trajectory.frame()["weight"].dropna().between(0, 1).all()


# ---- checkpoints and layers ------------------------------------------------------------------------------------------


def test_checkpoints_and_best_copies_hold_what_is_trained(tmp_path: Path) -> None:
    whole = results(loop_of(make("uniform"), LAST, FrozenTiny()))
    asked = iter(range(1, 100))
    stopped = loop_of(make("uniform"), LAST, FrozenTiny(), checkpoint=Checkpoint(tmp_path, "run"))
    stopped.should_stop = lambda: next(asked) == 9
    with pytest.raises(StopRequested):
        stopped.run()
    assert (tmp_path / "run.pt").stat().st_size < 100_000
    assert_same(results(loop_of(make("uniform"), LAST, FrozenTiny(), checkpoint=Checkpoint(tmp_path, "run"))), whole)
    loop = loop_of(make("uniform"), settings(), FrozenTiny())
    loop.run()
    assert isinstance(loop.selector, Selector)
    assert not any(name.startswith("large") for name in loop.selector.seen.parameters)


def test_checkpoints_take_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save of one second is followed by nineteen without."""
    now, saved = [0.0], list[float]()
    monkeypatch.setattr("benchmarks.harness.loop.CHECKPOINT_SHARE", 0.05)
    monkeypatch.setattr("benchmarks.harness.loop.time.monotonic", lambda: now[0])
    loop = loop_of(make("uniform"), settings(steps=60, log_every=1), checkpoint=Checkpoint(tmp_path, "run"))
    step = loop.train_step

    def slow_step() -> Any:
        now[0] += 1
        return step()

    def slow_save(state: dict[str, Any]) -> None:
        saved.append(now[0])
        now[0] += 1

    monkeypatch.setattr(loop, "train_step", slow_step)
    monkeypatch.setattr(loop.checkpoint, "save", slow_save)
    loop.run()
    assert len(saved) >= 3
    assert min(np.diff(saved)) >= 20


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (("shared",), ("shared",)),
        (("heads",), ("heads.small", "heads.medium", "heads.large")),
        (("shared", "heads.small"), ("shared", "heads.small")),
    ],
    ids=str,
)
def test_gradient_norms_at_chosen_modules(chosen: tuple[str, ...], expected: tuple[str, ...]) -> None:
    spy = Spy(3, asks=Needs.GRAD_NORMS)
    loop = loop_of(spy, settings(steps=1, log_every=1, shared_layer=chosen))
    loop.begin()
    model = loop.model
    losses = loop.problem.losses(model, loop.data.train_batch(0))
    parameters = [parameter for name in expected for parameter in model.get_submodule(name).parameters()]
    norms = gradient_norms(losses, parameters)
    loop.train_step()
    torch.testing.assert_close(spy.updates[0].grad_norms, norms.double())


def test_norms_of_a_tied_layer_and_of_a_frozen_one() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    x = torch.randn(5, 3)
    losses = [first(second(x)).square().mean(), first(x).abs().mean(), torch.zeros(())]
    norms = gradient_norms(losses, nn.ModuleList([first, second]))
    by_hand = [torch.autograd.grad(loss, first.weight, retain_graph=True)[0].norm() for loss in losses[:2]]
    torch.testing.assert_close(norms, torch.stack([*by_hand, torch.zeros(())]))
    with pytest.raises(ValueError, match="expected at least one trained parameter"):
        gradient_norms(losses, nn.Linear(2, 2).requires_grad_(False))


def test_unknown_modules_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"unknown module 'sharde'; did you mean 'shared'\?"):
        loop_of(make("gradnorm"), settings(shared_layer=("sharde",)))


def test_ids_of_settings() -> None:
    """Two settings of one label would hide each other in the report of a failure."""
    assert len(set(SETTING_IDS)) == len(SETTINGS)
