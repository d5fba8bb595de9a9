"""SFTTrainer with task weights: the task column, the fused head, packing per task, completions, LoRA."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_language_model as tiny
import torch
from by_hand import METHODS, assert_equal
from tiny_models import write_model

pytest.importorskip("trl")
pytest.importorskip("datasets")
from by_sft import FromLogits, InOrder, arguments, run, trainer
from by_trainer import logged, result, resumed
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_trainer import SFTTrainer

from weighting.integrations import _transformers_private as private

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return str(folder)


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("name", METHODS)
def test_accumulation_trains_as_whole_batches_by_hand(
    name: str, batch: int, accumulation: int, place: str, tmp_path: Path
) -> None:
    """The column ``task`` stays though TRL drops what it does not know."""
    assert_equal(run(name, tmp_path, batch, accumulation, place=place), tiny.by_hand(name))


@pytest.mark.parametrize("name", ["coba", "famo", "gradnorm"])
def test_a_run_with_lora_and_dropout_that_resumes_is_the_same_run(name: str, place: str, tmp_path: Path) -> None:
    made = partial(trainer, place=place, kind=InOrder, make=tiny.adapted)
    whole = result(made(tmp_path / "whole", name))
    for step in range(1, tiny.STEPS):
        assert_equal(resumed(name, tmp_path / str(step), step, made), whole)


@pytest.mark.parametrize("name", ["coba", "db_mtl"])
def test_of_a_step_that_the_scaler_skipped_nothing_is_learned(name: str, place: str, tmp_path: Path) -> None:
    assert_equal(run(name, tmp_path, place=place, skipped=2), tiny.by_hand(name, skipped=2))


@pytest.mark.skipif(not private.has_fused_head(), reason="this TRL has none, or nothing that computes it")
def test_the_fused_head_gives_the_nats_of_the_logits(place: str, tmp_path: Path) -> None:
    found = trainer(tmp_path, "uniform", place=place, kind=InOrder)
    batch = found.data_collator(tiny.rows()[:8])
    fused, plain = found.task_sums(found.model, dict(batch)), FromLogits.task_sums(found, found.model, dict(batch))
    torch.testing.assert_close(fused.double(), plain, rtol=1e-5, atol=0)


def examples(column: str) -> Dataset:
    texts = {"code": ("def add(a, b):", " return a + b"), "text": ("the sum", " of two numbers"), "speech": ("a", " b = a")}
    return Dataset.from_list(
        [{"prompt": f"{texts[t][0]} {n}", "completion": texts[t][1] + " a" * n, column: t} for n in range(6) for t in texts]
    )


def test_a_bfloat16_model_has_weights_of_at_least_float32(place: str, tmp_path: Path) -> None:
    found = trainer(tmp_path, "coba", place=place, kind=InOrder, make=lambda: tiny.model().bfloat16())
    found.train()
    assert found.step.weights.dtype.itemsize >= 4
    assert logged(found, "loss").isfinite().any()


@pytest.mark.parametrize(("packing", "column"), [(False, "task"), (True, "task"), (True, "source")])
def test_completions_with_lora_and_dropout_and_packing_train(packing: bool, column: str, place: str, tmp_path: Path) -> None:
    sizes = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_length": 48}
    found: Any = InOrder(
        AutoModelForCausalLM.from_pretrained(place),
        arguments(tmp_path, packing=packing, **sizes),
        train_dataset=examples(column),
        eval_dataset=examples(column),
        processing_class=AutoTokenizer.from_pretrained(place),
        peft_config=LoraConfig(r=2, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM"),
        weighter=tiny.method("coba"),
        tasks=tiny.TASKS,
        column=column,
        validation=examples(column),
    )
    # Older versions make labels where rows are collated.
    labels = [found.data_collator([row])["labels"][0].tolist() for row in found.train_dataset]
    predicted = sum(label != -100 for row in labels for label in row)
    found.train()
    assert set(found.train_dataset[column]) == set(tiny.TASKS), "every row, packed or not, belongs to one task"
    counts = [row[f"count/{task}"] for row in found.state.log_history if "loss" in row for task in tiny.TASKS]
    counted = sum(count for count in counts if count == count)
    assert 0 < counted <= predicted
    assert all(label == -100 for row in labels for label in row[:2]), "prompts are not predicted"
    told = found.evaluate()
    assert all(told[f"eval_{task}_loss"] > 0 for task in tiny.TASKS)


def test_the_private_methods_that_the_adapter_rests_on_are_where_they_were() -> None:
    assert private.moved(SFTTrainer, {**private.TRAINER, **private.SFT_TRAINER}) == []
