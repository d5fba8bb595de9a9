"""SFTTrainer with task weights: the task column, the fused head, packing per task, completions, LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_language_model as tiny
import torch
from by_hand import METHODS, Result, assert_equal
from tiny_models import write_model
from torch.utils.data import SequentialSampler

pytest.importorskip("trl")
pytest.importorskip("datasets")
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from weighting.integrations import _transformers_private as private
from weighting.integrations.transformers import WeightedTasks as TrainerTasks
from weighting.integrations.trl import WeightedTasks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class InOrder(WeightedTasks, SFTTrainer):  # type: ignore[misc]
    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        data: Any = self.train_dataset
        return SequentialSampler(data)


class FromLogits(InOrder):
    """The fused head computes in float32; here nats are those of the logits, in float64."""

    def task_sums(self, model: Any, inputs: dict[str, Any]) -> Any:
        return TrainerTasks.task_sums(self, model, inputs)


def arguments(folder: Path, **settings: Any) -> SFTConfig:
    given: dict[str, Any] = {
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "activation_checkpointing": False,
    }
    return SFTConfig(str(folder), **{**given, **settings})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return str(folder)


def logged(found: Any, field: str) -> torch.Tensor:
    rows = [row for row in found.state.log_history if "loss" in row]
    return torch.tensor([[row[f"{field}/{task}"] for task in tiny.TASKS] for row in rows], dtype=torch.float64)


def on_rows(place: str, folder: Path, name: str, batch: int, accumulation: int, kind: Any) -> Any:
    """A trainer on the rows of the training by hand, tokenized as they are."""
    trained = tiny.model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=tiny.LR)
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    return kind(
        trained,
        arguments(folder, **sizes, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_list(tiny.rows()),
        processing_class=AutoTokenizer.from_pretrained(place),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        weighter=tiny.method(name),
        tasks=tiny.TASKS,
        validation=None if name != "coba" else own_feed(),
        shared=tiny.shared(trained),
    )


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("name", METHODS)
def test_accumulation_trains_as_whole_batches_by_hand(
    name: str, batch: int, accumulation: int, place: str, tmp_path: Path
) -> None:
    """The column ``task`` stays though TRL drops what it does not know."""
    found = on_rows(place, tmp_path, name, batch, accumulation, FromLogits)
    found.train()
    assert_equal(Result(logged(found, "loss"), logged(found, "weight"), tiny.flat(found.model)), tiny.by_hand(name))


def test_the_fused_head_gives_the_nats_of_the_logits(place: str, tmp_path: Path) -> None:
    found = on_rows(place, tmp_path, "uniform", 8, 1, InOrder)
    batch = found.data_collator(tiny.rows()[:8])
    fused, plain = found.task_sums(found.model, dict(batch)), FromLogits.task_sums(found, found.model, dict(batch))
    torch.testing.assert_close(fused.double(), plain, rtol=1e-5, atol=0)


def own_feed() -> Any:
    from transformers import default_data_collator

    from weighting import ValidationFeed
    from weighting.integrations.tokens import TaskCollator

    data = tiny.validation_rows()
    tasks = [row % tiny.K for row in range(len(data))]
    return ValidationFeed(data, TaskCollator(default_data_collator, tiny.TASKS), batch_size=9, tasks=tasks)


def examples() -> Dataset:
    texts = {"code": ("def add(a, b):", " return a + b"), "text": ("the sum", " of two numbers"), "speech": ("a", " b = a")}
    return Dataset.from_list(
        [{"prompt": f"{texts[t][0]} {n}", "completion": texts[t][1] + " a" * n, "task": t} for n in range(6) for t in texts]
    )


@pytest.mark.parametrize("packing", [False, True])
def test_completions_with_lora_and_dropout_and_packing_train(packing: bool, place: str, tmp_path: Path) -> None:
    sizes = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_length": 48}
    found: Any = InOrder(
        AutoModelForCausalLM.from_pretrained(place),
        arguments(tmp_path, packing=packing, **sizes),
        train_dataset=examples(),
        eval_dataset=examples(),
        processing_class=AutoTokenizer.from_pretrained(place),
        peft_config=LoraConfig(r=2, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM"),
        weighter=tiny.method("coba"),
        tasks=tiny.TASKS,
        validation=examples(),
    )
    predicted = sum(len([x for x in row["labels"] if x != -100]) for row in found.train_dataset)
    found.train()
    assert set(found.train_dataset["task"]) == set(tiny.TASKS), "every row, packed or not, belongs to one task"
    counts = [row[f"count/{task}"] for row in found.state.log_history if "loss" in row for task in tiny.TASKS]
    counted = sum(count for count in counts if count == count)
    assert 0 < counted <= predicted
    assert all(label == -100 for row in found.train_dataset for label in row["labels"][:2]), "prompts are not predicted"
    told = found.evaluate()
    assert all(told[f"eval_{task}_loss"] > 0 for task in tiny.TASKS)


def test_the_private_methods_that_the_adapter_rests_on_are_where_they_were() -> None:
    assert private.moved(SFTTrainer, {**private.TRAINER, **private.SFT_TRAINER}) == []
