"""transformers.Trainer with task weights against training by hand: accumulation, resuming, precision, evaluation, logs."""

from __future__ import annotations

import inspect
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_language_model as tiny
import torch
from by_hand import METHODS, assert_equal

import weighting

pytest.importorskip("transformers")
from by_trainer import InOrder, Stop, result, resumed, run, trainer
from transformers import Trainer, TrainingArguments, default_data_collator

from weighting.integrations import _transformers_private as private
from weighting.integrations.tokens import TaskCollator


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("name", METHODS)
def test_accumulation_trains_as_whole_batches_by_hand(name: str, batch: int, accumulation: int, tmp_path: Path) -> None:
    assert_equal(run(name, tmp_path, batch, accumulation), tiny.by_hand(name))


def test_the_column_of_tasks_may_have_another_name(tmp_path: Path) -> None:
    """In the training data and in the validation data, which CoBa reads."""
    assert_equal(result(trainer(tmp_path, "coba", column="channel")), tiny.by_hand("coba"))


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")  # peft reads what transformers has renamed
@pytest.mark.parametrize("make", [tiny.model, partial(tiny.model, 0.3), tiny.adapted], ids=["plain", "dropout", "lora"])
@pytest.mark.parametrize("name", ["coba", "famo", "gradnorm"])
def test_a_run_that_resumes_is_the_same_run(name: str, make: Any, tmp_path: Path) -> None:
    """At every step; LoRA has dropout too."""
    whole = result(trainer(tmp_path / "whole", name, make=make))
    for step in range(1, tiny.STEPS):
        assert_equal(resumed(name, tmp_path / str(step), step, make=make), whole)


@pytest.mark.parametrize("name", METHODS)
def test_of_a_step_that_the_scaler_skipped_nothing_is_learned(name: str, tmp_path: Path) -> None:
    assert_equal(run(name, tmp_path, skipped=2), tiny.by_hand(name, skipped=2))


@pytest.mark.parametrize("name", METHODS)
def test_a_bfloat16_model_has_weights_of_at_least_float32(name: str, tmp_path: Path) -> None:
    found = trainer(tmp_path, name, make=lambda: tiny.model().bfloat16())
    found.train()
    weights = found.step.weights
    assert weights.dtype.itemsize >= 4
    assert weights.isfinite().all()
    assert name == "uniform" or not torch.equal(weights, weights.bfloat16().to(weights)), "rounded on the way"


def test_a_checkpoint_without_weights_is_refused_and_not_restarted(tmp_path: Path) -> None:
    found = trainer(tmp_path, "dwa", save_strategy="steps", save_steps=2, callbacks=[Stop(2)])
    found.train()
    (tmp_path / "checkpoint-2" / "weighting.pt").unlink()
    with pytest.raises(ValueError, match=r"expected weighting.pt in .*, found none; it was saved without task weights"):
        trainer(tmp_path, "dwa").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_evaluation_gives_each_task_s_raw_loss_and_can_select_the_model(tmp_path: Path) -> None:
    selecting: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    selecting |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_text_loss", "greater_is_better": False}
    found = trainer(tmp_path, "uniform", eval_dataset=tiny.validation_rows(), per_device_eval_batch_size=5, **selecting)
    found.train()
    evaluated = [row for row in found.state.log_history if "eval_text_loss" in row]
    assert len(evaluated) == tiny.STEPS
    assert found.state.best_metric == min(row["eval_text_loss"] for row in evaluated)
    losses, _ = tiny.means(found.model.eval(), tiny.validation_rows())
    told = found.evaluate()
    assert [told[f"eval_{task}_loss"] for task in tiny.TASKS] == pytest.approx(losses.tolist(), rel=1e-10)
    assert told["eval_mean_task_loss"] == pytest.approx(losses.mean().item(), rel=1e-10)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_re_entrant_checkpointing_lets_gradient_norms_through(tmp_path: Path) -> None:
    name = "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
    options: dict[str, Any] = {name: True, f"{name}_kwargs": {"use_reentrant": True}}
    assert_equal(result(trainer(tmp_path, "gradnorm", **options)), tiny.by_hand("gradnorm"))


class Dictionary(InOrder):
    """Losses by name, without tokens."""

    def task_losses(self, model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        logits = model(input_ids=inputs["input_ids"]).logits
        return {"code": logits.square().mean(), "text": logits.abs().mean()}


def test_a_dictionary_of_losses_trains_as_by_hand(tmp_path: Path) -> None:
    found = trainer(tmp_path, "dwa", kind=Dictionary)
    found.train()
    trained = tiny.model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=tiny.LR)
    weighter, data = tiny.method("dwa"), tiny.rows()
    for step in range(tiny.STEPS):
        ids = torch.tensor([row["input_ids"] for row in data[step * 8 : step * 8 + 8]])
        logits = trained(input_ids=ids).logits
        losses = torch.stack([logits.square().mean(), logits.abs().mean(), torch.zeros(()).double()])
        now = weighting.Observation(losses=losses, counts=[len(ids)] * 3)
        optimizer.zero_grad()
        if step == 0:
            weighter.start(now)
        weighting.total(weighter.weights(now), losses).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        weighter.update(now)
    torch.testing.assert_close(tiny.flat(found.model), tiny.flat(trained), rtol=1e-10, atol=1e-10)


def test_a_missing_or_unknown_task_is_one_line(tmp_path: Path) -> None:
    found = trainer(tmp_path, "uniform")
    found.train_dataset = [{key: value for key, value in row.items() if key != "task"} for row in tiny.rows()]
    with pytest.raises(ValueError, match="expected a batch with 'task', found"):
        found.train()
    with pytest.raises(ValueError, match=r"expected in column 'task' one of \['a'\] or 0 to 0, found 'b'"):
        TaskCollator(default_data_collator, ["a"])([{"task": "b"}])
    with pytest.raises(ValueError, match="expected in column 'channel' one of"):
        TaskCollator(default_data_collator, ["a"], "channel")([{"channel": "b"}])


# ---- check_integration --------------------------------------------------------------------------------


def test_a_sound_trainer_passes_and_is_left_as_it_was(tmp_path: Path) -> None:
    found = trainer(tmp_path, "famo")
    told = weighting.check_integration(found)
    assert told.ok, str(told)
    assert "counts: comes through" in str(told)
    assert_equal(result(found), tiny.by_hand("famo"))


def divided_by_accumulation(found: Any) -> None:
    found.loss_is_scaled_for_ga = found.model_accepts_loss_kwargs = False


def times_ranks(found: Any) -> None:
    found.step.ranks_averaged = 2


def counts_of_a_micro_batch(found: Any) -> None:
    whole = found._open
    found._open = lambda model, first, _: whole(model, first, [])


@pytest.mark.parametrize(
    ("mutate", "told"),
    [
        (divided_by_accumulation, "accumulation of 2 and 1 ranks: expected the gradient of .* 0.5 times its size"),
        (times_ranks, "accumulation of 2 and 1 ranks: expected the gradient of .* 2 times its size"),
        (counts_of_a_micro_batch, "counts: expected .* units of .*, found"),
    ],
)
def test_check_integration_tells_a_factor_in_words(mutate: Any, told: str, tmp_path: Path) -> None:
    found = trainer(tmp_path, "uniform")
    mutate(found)
    report = weighting.check_integration(found)
    assert not report.ok
    assert re.search(told, str(report)), str(report)


def test_check_integration_of_something_else_is_one_line() -> None:
    with pytest.raises(TypeError, match="expected a Trainer with WeightedTasks, found int"):
        weighting.check_integration(3)


# ---- what is private of the library ----------------------------------------------------------------------------------


def test_the_private_methods_that_the_adapter_rests_on_are_where_they_were() -> None:
    assert private.moved(Trainer, private.TRAINER) == []
    assert private.divides_otherwise(Trainer) == []
    assert "on_optimizer_step" in inspect.getsource(Trainer)


def test_a_moved_method_is_told_in_words() -> None:
    class Changed:
        def log(self, messages: Any) -> None: ...
        def training_step(self) -> None: ...

    told = private.moved(Changed, {"log": ("logs",), "evaluate": ()})
    assert told == [
        "Changed.log has no argument logs any more; the adapter gives it",
        "Changed.evaluate is gone; the adapter rests on it",
    ]
    assert "Changed.training_step no longer reads" in private.divides_otherwise(Changed)[0]
