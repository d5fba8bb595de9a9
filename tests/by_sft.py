"""Training by TRL's SFTTrainer, for what tiny_language_model trains by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import by_trainer
import tiny_language_model as tiny
import torch
from by_hand import Result
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from weighting.integrations.transformers import WeightedTasks as TrainerTasks
from weighting.integrations.trl import WeightedTasks


class InOrder(WeightedTasks, SFTTrainer):  # type: ignore[misc]
    """Rows in their order."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        data: Any = self.train_dataset
        return SequentialSampler(data)


class FromLogits(InOrder):
    """The fused head computes in float32; here nats are those of the logits, in float64."""

    def task_sums(self, model: Any, inputs: dict[str, Any]) -> Any:
        return TrainerTasks.task_sums(self, model, inputs)


@cache
def _tokenizer(place: str) -> Any:
    return AutoTokenizer.from_pretrained(place)


def arguments(folder: Path, **settings: Any) -> SFTConfig:
    return SFTConfig(str(folder), **{**by_trainer.COMMON, "bf16": False, **settings})


def trainer(
    folder: Path, name: str, batch: int = 4, accumulation: int = 2, *, place: str, kind: Any = FromLogits, **settings: Any
) -> Any:
    """On the rows of the training by hand, tokenized as they are. place: of a tokenizer; make: makes the model."""
    trained = settings.pop("make", tiny.model)()
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=tiny.LR)
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    rest = {key: settings.pop(key) for key in ("callbacks", "lagged") if key in settings}
    return kind(
        trained,
        arguments(folder, **sizes, dataset_kwargs={"skip_prepare_dataset": True}, **settings),
        train_dataset=Dataset.from_list(tiny.rows()),
        processing_class=_tokenizer(place),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        weighter=tiny.method(name),
        tasks=tiny.TASKS,
        validation=Dataset.from_list(tiny.validation_rows()),
        shared=tiny.shared(trained),
        check_every=1,
        **rest,
    )


def run(name: str, folder: Path, batch: int = 4, accumulation: int = 2, *, place: str, skipped: int | None = None) -> Result:
    found = trainer(folder, name, batch, accumulation, place=place)
    return by_trainer.result(found if skipped is None else by_trainer.scaled(found, skipped))
