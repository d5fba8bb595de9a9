"""Every silent factor and habit of frameworks and of loops by hand, put back one at a time: the equality sees each of them.

``MUTATIONS`` is the list: what is put back, what it does to the step object or the adapters, in whom it can be, and the
training that sees it. Two ranks see two more: ``MUTATIONS`` of ``test_two_ranks``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import by_hand as small
import pytest
import tiny_language_model as tiny
import torch
from by_hand import Result, assert_equal

pytest.importorskip("lightning")
pytest.importorskip("trl")
import by_accelerate
import by_lightning
import by_sft
import by_step
import by_trainer
from tiny_models import write_model
from torch import Tensor

from weighting import Observation, ValidationFeed, WeightedStep, passes
from weighting.integrations._transformers_private import TrainerPrivate
from weighting.integrations.transformers import WeightedTasks as TrainerTasks

pytestmark = pytest.mark.filterwarnings("ignore")

Patch = pytest.MonkeyPatch
ALL = ("step", "accelerate", "lightning", "transformers", "trl")


# ---- what is put back ------------------------------------------------------------------------------------------------


def divided_by_accumulation(patch: Patch) -> None:
    make = WeightedStep.__init__
    patch.setattr(WeightedStep, "__init__", lambda self, *a, **o: make(self, *a, **{**o, "loss_divided_by": 1}))

    def divided(self: Any) -> None:
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = False

    patch.setattr(TrainerPrivate, "undivided", divided)


def times_ranks(patch: Patch) -> None:
    patch.setattr(WeightedStep, "_averaged", 2)


def counts_of_a_micro_batch(patch: Patch) -> None:
    patch.setattr(small, "counts_of_parts", lambda parts: small.counts_of(parts[0]))
    patch.setattr(by_step, "counts_of_parts", lambda parts: small.counts_of(parts[0]))
    lightning: Any = by_lightning.Module._open
    patch.setattr(by_lightning.Module, "_open", lambda self, first, *_: lightning(self, first))
    trainer: Any = TrainerTasks._open
    patch.setattr(TrainerTasks, "_open", lambda self, model, first, _: trainer(self, model, first, []))


def absent_tasks_count_one(patch: Patch) -> None:
    vector = WeightedStep.vector

    def at_least_one(self: Any, name: str, values: Any) -> Any:
        found = vector(self, name, values)
        return found.clamp(min=1) if name == "counts" else found

    patch.setattr(WeightedStep, "vector", at_least_one)


def update_per_micro_batch(patch: Patch) -> None:
    total = WeightedStep.total

    def updated(self: Any, sums: Any, row_tasks: Any = None) -> Any:
        found = total(self, sums, row_tasks)
        self.weighter.update(Observation(losses=sums.detach() / self.counts.clamp(min=1), counts=self.counts))
        return found

    patch.setattr(WeightedStep, "total", updated)


def other_losses_after_the_step(patch: Patch) -> None:
    after: Any = WeightedStep._with_losses_after

    def of_other_tasks(self: Any, seen: Any, losses: Any) -> Any:
        found = after(self, seen, losses)
        return found.replace(losses_after=found.losses_after.roll(1))

    patch.setattr(WeightedStep, "_with_losses_after", of_other_tasks)


def state_begins_anew(patch: Patch) -> None:
    patch.setattr(WeightedStep, "load_state_dict", lambda self, state: setattr(self, "steps", state["steps"]))


def validation_begins_anew(patch: Patch) -> None:
    patch.setattr(ValidationFeed, "load_state_dict", lambda self, state: None)


def one_validation_batch_for_ever(patch: Patch) -> None:
    patch.setattr(ValidationFeed, "advance", lambda self: None)


def validation_in_training_mode(patch: Patch) -> None:
    apart: Any = passes.apart
    patch.setattr("weighting.step.apart", lambda model, evaluation, **options: apart(model, evaluation=False, **options))


def skipped_steps_count(patch: Patch) -> None:
    close = WeightedStep.close
    patch.setattr(WeightedStep, "close", lambda self, skipped=False, **options: close(self, **options))


@dataclass(frozen=True)
class Mutation:
    """One of them."""

    put_back: Callable[[Patch], None]
    what: str
    method: str
    """Under which the training differs."""
    training: str = "whole"
    """``whole``, ``resumed`` at the third step, or ``skipped``: with a scaler that skips it."""
    adapters: tuple[str, ...] = ALL


MUTATIONS = (
    Mutation(divided_by_accumulation, "the loss is divided by the accumulation steps", "uniform", adapters=ALL[1:]),
    Mutation(times_ranks, "the gradient is a multiple by the number of ranks", "uniform"),
    Mutation(counts_of_a_micro_batch, "losses are divided by counts of one micro-batch", "uniform"),
    Mutation(absent_tasks_count_one, "an absent task is shown as the loss 0 of one unit", "famo"),
    Mutation(update_per_micro_batch, "the method learns once per micro-batch", "dwa"),
    Mutation(other_losses_after_the_step, "losses after the step are those of something else", "famo"),
    Mutation(one_validation_batch_for_ever, "every step is shown the same validation batch", "coba"),
    Mutation(validation_in_training_mode, "validation losses are taken in training mode", "coba"),
    Mutation(state_begins_anew, "the method's state is not restored on resume", "coba", "resumed"),
    Mutation(validation_begins_anew, "the place in the validation set is not restored", "coba", "resumed"),
    Mutation(skipped_steps_count, "the method learns of a step that the scaler skipped", "coba", "skipped"),
)
CASES = [(mutation, adapter) for mutation in MUTATIONS for adapter in mutation.adapters]


# ---- who sees it -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


def assert_as_by_hand(adapter: str, name: str, training: str, folder: Path, place: str) -> None:
    """Raises AssertionError where a training by an adapter is not the one by hand."""
    of_rows = adapter in ("transformers", "trl")
    by_hand = tiny.by_hand if of_rows else small.by_hand
    if training == "resumed":
        torch.testing.assert_close(resumed(adapter, name, folder, place), by_hand(name).parameters, rtol=1e-10, atol=1e-10)
        return
    skipped = 2 if training == "skipped" else None
    assert_equal(trained(adapter, name, folder, place, skipped), by_hand(name, skipped=skipped))


def trained(adapter: str, name: str, folder: Path, place: str, skipped: int | None) -> Result:
    runs: dict[str, Callable[[], Result]] = {
        "step": lambda: by_step.run(name, skipped=skipped),
        "accelerate": lambda: by_accelerate.run(name, skipped=skipped),
        "lightning": lambda: by_lightning.run(name, folder, skipped=skipped),
        "transformers": lambda: by_trainer.run(name, folder, skipped=skipped),
        "trl": lambda: by_sft.run(name, folder, place=place, skipped=skipped),
    }
    return runs[adapter]()


def resumed(adapter: str, name: str, folder: Path, place: str) -> Tensor:
    runs: dict[str, Callable[[], Tensor]] = {
        "step": lambda: by_step.resumed(name, folder / "run", 3),
        "accelerate": lambda: by_accelerate.resumed(name, folder / "run", 3),
        "lightning": lambda: by_lightning.resumed(name, folder / "run", 3),
        "transformers": lambda: by_trainer.resumed(name, folder, 3).parameters,
        "trl": lambda: by_trainer.resumed(name, folder, 3, by_sft.trainer, place=place).parameters,
    }
    return runs[adapter]()


@pytest.mark.parametrize(
    ("mutation", "adapter"), CASES, ids=[f"{mutation.put_back.__name__}-{adapter}" for mutation, adapter in CASES]
)
def test_each_is_caught_by_the_equality(
    mutation: Mutation, adapter: str, place: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    """And it is the mutation that is caught: without it the same training is the one by hand."""
    (tmp_path / "sound").mkdir()
    assert_as_by_hand(adapter, mutation.method, mutation.training, tmp_path / "sound", place)
    mutation.put_back(monkeypatch)
    (tmp_path / "mutated").mkdir()
    with pytest.raises(AssertionError, match=r"not close|not equal|do not match"):
        assert_as_by_hand(adapter, mutation.method, mutation.training, tmp_path / "mutated", place)
