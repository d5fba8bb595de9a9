"""Training by transformers.Trainer, for what tiny_language_model trains by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import by_hand as small
import tiny_language_model as tiny
import torch
from by_hand import Result
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from weighting.integrations.transformers import WeightedTasks


class InOrder(WeightedTasks, Trainer):  # type: ignore[misc]
    """Rows in their order, so that steps can be told in advance."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        data: Any = self.train_dataset
        return SequentialSampler(data)


class Stop(TrainerCallback):
    """At a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == self.step


COMMON: dict[str, Any] = {
    "num_train_epochs": 1,
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
    "dataloader_pin_memory": False,
    "accelerator_config": {"even_batches": False},
}
"""Settings of every trainer here."""


def saved_at(step: int) -> dict[str, Any]:
    """Settings that save every so many steps."""
    return {"save_strategy": "steps", "save_steps": step}


def arguments(folder: Path, batch: int, accumulation: int, **settings: Any) -> TrainingArguments:
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    return TrainingArguments(str(folder), **{**COMMON, **sizes, **settings})


def trainer(folder: Path, name: str, batch: int = 4, accumulation: int = 2, kind: Any = InOrder, **settings: Any) -> Any:
    """make: a function that makes the model; column: where the data say the task."""
    column = settings.pop("column", "task")
    trained = settings.pop("make", tiny.model)()
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=tiny.LR)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    rest = {key: settings.pop(key) for key in ("eval_dataset", "callbacks", "lagged") if key in settings}
    return kind(
        trained,
        arguments(folder, batch, accumulation, **settings),
        data_collator=default_data_collator,
        train_dataset=renamed(tiny.rows(), column),
        optimizers=(optimizer, constant),
        weighter=tiny.method(name),
        tasks=tiny.TASKS,
        column=column,
        validation=renamed(tiny.validation_rows(), column),
        shared=tiny.shared(trained),
        check_every=1,
        **rest,
    )


def renamed(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return [{column if key == "task" else key: value for key, value in row.items()} for row in rows]


def logged(found: Any, field: str) -> Tensor:
    """``(steps, K)`` of the steps that were made."""
    rows = [row for row in found.state.log_history if f"{field}/{tiny.TASKS[0]}" in row]
    return torch.tensor([[row[f"{field}/{task}"] for task in tiny.TASKS] for row in rows], dtype=torch.float64)


def result(found: Any, checkpoint: Path | None = None) -> Result:
    """Trains first, on from a checkpoint if there is one."""
    found.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return Result(logged(found, "loss"), logged(found, "weight"), tiny.flat(found.model))


def scaled(found: Any, skipped: int) -> Any:
    """With a gradient scaler, and a gradient that overflows in a step."""
    found.accelerator.scaler = small.overflow(found.model.lm_head.weight, lambda: found.state.global_step == skipped)
    return found


def run(name: str, folder: Path, batch: int = 4, accumulation: int = 2, *, skipped: int | None = None) -> Result:
    found = trainer(folder, name, batch, accumulation)
    return result(found if skipped is None else scaled(found, skipped))


def resumed(name: str, folder: Path, stop: int, trainer: Any = trainer, **settings: Any) -> Result:
    """A run that was stopped and went on. trainer: a function like the one here."""
    trainer(folder, name, callbacks=[Stop(stop)], **saved_at(stop), **settings).train()
    return result(trainer(folder, name, **saved_at(stop), **settings), folder / f"checkpoint-{stop}")
