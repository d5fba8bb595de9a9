"""A step of each adapter of ``weighting.integrations`` over the same trainer without it.

All train the same small Llama on the same rows, each of one task, in two micro-batches a step, or in one. Every block is a
training of its own, whose first step, with what comes before it, is not counted; trainers and methods take turns. Methods
that read validation losses are shown a batch of the size of the whole step.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.overhead import small_llama
from benchmarks.overhead.small_llama import (
    TASKS,
    collate,
    counts,
    make_model,
    mean,
    measure,
    micro_batches,
    rows,
    steps_of,
    sums,
)
from weighting import MicroBatches, ValidationFeed, WeightedStep, create

LR = 1e-3
ROUNDS, BLOCK_STEPS, WARMUP_ROUNDS = 3, 10, 1
WITHOUT = "none"


@dataclass(frozen=True)
class Setting:
    """What is trained with."""

    name: str = WITHOUT
    """Of a method."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    accumulation: int = 2
    """Micro-batches of a step."""
    lagged: bool = False
    """The losses that the method answers from are those of the last step."""
    allowed: float = math.nan
    """What the suite aims at, as a multiple of the trainer without weights."""


COBA: Mapping[str, Any] = {"warmup": 1, "window": 10}
SETTINGS: dict[str, Setting] = {
    WITHOUT: Setting(),
    "uniform": Setting("uniform", allowed=1.03),
    "dwa": Setting("dwa", {"window": 2}, allowed=1.03),
    "uncertainty": Setting("uncertainty", allowed=1.03),
    "gradnorm": Setting("gradnorm", allowed=1.03),
    "famo": Setting("famo", allowed=1.35),
    "famo[lagged]": Setting("famo", lagged=True, allowed=1.35),
    "coba": Setting("coba", COBA, allowed=1.35),
    "coba[update_every=5]": Setting("coba", {**COBA, "update_every": 5}, allowed=1.10),
    f"{WITHOUT}, one micro-batch": Setting(accumulation=1),
    "famo, one micro-batch": Setting("famo", accumulation=1, allowed=1.35),
}


class Clock:
    """Seconds of a step, from the end of a training's first to the end of its last."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, list[float]()

    def step_ended(self) -> None:
        """The optimizer has made its step, and the method has learned of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())

    def seconds(self) -> float:
        """Since the last call."""
        ends, self.ends = self.ends, []
        return (ends[-1] - ends[0]) / (len(ends) - 1)


Train = Callable[[Setting, int, Clock], None]
"""In a setting of ``SETTINGS``, so many steps."""


def installed() -> bool:
    """Whether all trainers are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("transformers", "trl", "accelerate", "lightning"))


def adapter_costs(device: torch.device) -> pd.DataFrame:
    """One row per trainer and method: milliseconds of a step, its ratio to the trainer alone with quartiles."""
    ways = [(trainer, weights) for trainer in TRAINERS for weights in SETTINGS]
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    clock = Clock(device)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for number in tqdm(range(WARMUP_ROUNDS + ROUNDS), desc="cost adapters", disable=not sys.stderr.isatty()):
        for trainer, weights in ways:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                TRAINERS[trainer](SETTINGS[weights], BLOCK_STEPS + 1, clock)
            taken = clock.seconds()
            if number >= WARMUP_ROUNDS:
                seconds[trainer, weights].append(taken)
    return pd.DataFrame([_row(*way, seconds) for way in ways])


def _row(trainer: str, weights: str, seconds: Mapping[tuple[str, str], list[float]]) -> dict[str, Any]:
    alone = next(label for label, each in SETTINGS.items() if each == Setting(accumulation=SETTINGS[weights].accumulation))
    ratios = np.array(seconds[trainer, weights]) / np.array(seconds[trainer, alone])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "trainer": trainer,
        "weights": weights,
        "ms per step": round(1e3 * float(np.median(seconds[trainer, weights])), 2),
        "ratio": round(float(middle), 3),
        "quartiles": f"{low:.3f} to {high:.3f}",
        "allowed": SETTINGS[weights].allowed,
    }


def arguments_of(setting: Setting, model: nn.Module) -> dict[str, Any]:
    """Of a step object."""
    whole = setting.accumulation * small_llama.ROWS
    return {
        "weighter": create(setting.name, len(TASKS), **setting.hyperparameters),
        "tasks": TASKS,
        "validation": ValidationFeed(rows(whole), collate, batch_size=whole),
        "shared": [each for key, each in model.named_parameters() if key.endswith("layers.3.mlp.down_proj.weight")],
        "lagged": setting.lagged,
    }


# ---- the trainers ----------------------------------------------------------------------------------------------------


def train_by_loop(setting: Setting, steps: int, clock: Clock) -> None:
    """Plain PyTorch."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    step = None
    if setting.name != WITHOUT:
        step = WeightedStep(**arguments_of(setting, model), measure=measure(model), model=model)
    for batches in steps_of(steps, setting.accumulation):
        whole = _train_on(batches, model, step, lambda loss: loss.backward(), 1 / setting.accumulation)
        optimizer.step()
        optimizer.zero_grad()
        if step is not None and whole is not None:
            step.close(losses_after=whole.mean_losses)
        clock.step_ended()


def train_by_accelerate(setting: Setting, steps: int, clock: Clock) -> None:
    """A loop with an accelerator, which divides by the accumulation steps."""
    from accelerate import Accelerator

    from weighting.integrations.accelerate import accelerated_step

    accelerator = Accelerator(cpu=clock.device.type == "cpu", gradient_accumulation_steps=setting.accumulation)
    bare = make_model()
    model, optimizer = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=LR))
    step = None
    if setting.name != WITHOUT:
        step = accelerated_step(accelerator, **arguments_of(setting, bare), measure=measure(bare), model=bare)
    for batches in steps_of(steps, setting.accumulation):
        whole = _train_on(batches, model, step, accelerator.backward, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step is not None and whole is not None:
            step.close(losses_after=whole.mean_losses)
        clock.step_ended()
    accelerator.free_memory()


def _train_on(
    batches: list[dict[str, Tensor]], model: nn.Module, step: WeightedStep | None, backward: Any, factor: float
) -> MicroBatches | None:
    """The backward passes of a step. factor: what the loss without weights is multiplied by."""
    if step is None:
        for batch in batches:
            backward(mean(model, batch) * factor)
        return None
    first, *others = batches
    whole = MicroBatches(step, batches, counts, partial(sums, model))
    backward(step.total(whole.open(partial(sums, model)), first["task"]))
    for batch in others:
        backward(step.total(sums(model, batch), batch["task"]))
    return whole


def train_by_lightning(setting: Setting, steps: int, clock: Clock) -> None:
    """Automatic optimization."""
    import lightning
    from lightning.pytorch.callbacks import Callback

    from weighting.integrations.lightning import StepBatches, WeightedTasks

    class Plain(lightning.LightningModule):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return mean(self.inner, batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LR)

    class Weighted(WeightedTasks, lightning.LightningModule):
        def task_counts(self, batch: Any) -> Tensor:
            return counts(batch)

        def task_sums(self, batch: Any) -> Tensor:
            inner: Any = self.inner
            return sums(inner, batch)

        def task_rows(self, batch: Any) -> Tensor:
            found: Tensor = batch["task"]
            return found

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LR)

    class Ends(Callback):
        """An optimizer step has ended where the next micro-batch begins: callbacks of modules come after it otherwise."""

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx and batch_idx % setting.accumulation == 0:
                clock.step_ended()

    inner, batches = make_model(), micro_batches((steps + 1) * setting.accumulation)
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    module: Any = Plain(inner)
    if setting.name != WITHOUT:
        module, loader = Weighted(**arguments_of(setting, inner)), StepBatches(loader, setting.accumulation)
        module.inner = inner
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    kind = "cpu" if clock.device.type == "cpu" else "gpu"
    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=setting.accumulation, accelerator=kind, devices=1, callbacks=[Ends()], **quiet
    )
    trainer.fit(module, loader)


def _by_trainer(plain: Any, weighted: Any, make_arguments: Any, more: Mapping[str, Any]) -> Train:
    """A Trainer or a class of it."""
    import transformers

    base: Any = transformers.TrainerCallback

    def train(setting: Setting, steps: int, clock: Clock) -> None:
        class Ends(base):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.step_ended()

        model = make_model()
        weighs = setting.name != WITHOUT
        given = {**more, **arguments_of(setting, model)} if weighs else dict(more)
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        with tempfile.TemporaryDirectory() as folder:
            trainer: Any = (weighted if weighs else plain)(
                model,
                make_arguments(folder, _common(setting, steps, clock.device)),
                train_dataset=_data_set(steps * setting.accumulation, named=weighs),
                optimizers=(optimizer, constant),
                callbacks=[Ends()],
                **given,
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()

    return train


def _data_set(micro_batches: int, *, named: bool) -> Any:
    from datasets import Dataset

    found = Dataset.from_list(rows(micro_batches * small_llama.ROWS))
    return found if named else found.remove_columns("task")


def _common(setting: Setting, steps: int, device: torch.device) -> dict[str, Any]:
    return {
        "max_steps": steps,
        "per_device_train_batch_size": small_llama.ROWS,
        "gradient_accumulation_steps": setting.accumulation,
        "use_cpu": device.type == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        "dataloader_pin_memory": False,
    }


def train_by_trainer(setting: Setting, steps: int, clock: Clock) -> None:
    """``transformers.Trainer``."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    from weighting.integrations.transformers import WeightedTasks

    def arguments(folder: str, common: dict[str, Any]) -> Any:
        return TrainingArguments(folder, **common)

    weighted = type("Weighted", (WeightedTasks, Trainer), {})
    _by_trainer(Trainer, weighted, arguments, {"data_collator": default_data_collator})(setting, steps, clock)


def train_by_sft_trainer(setting: Setting, steps: int, clock: Clock) -> None:
    """TRL's."""
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from weighting.integrations.trl import WeightedTasks

    def arguments(folder: str, common: dict[str, Any]) -> Any:
        return SFTConfig(folder, bf16=False, dataset_kwargs={"skip_prepare_dataset": True}, **common)

    weighted = type("Weighted", (WeightedTasks, SFTTrainer), {})
    _by_trainer(SFTTrainer, weighted, arguments, {"processing_class": _tokenizer()})(setting, steps, clock)


def _tokenizer() -> Any:
    """SFTTrainer asks for one; the rows are numbers already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    return fast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<s>")


TRAINERS: dict[str, Train] = {
    "loop": train_by_loop,
    "Accelerate": train_by_accelerate,
    "Lightning": train_by_lightning,
    "Trainer": train_by_trainer,
    "SFTTrainer": train_by_sft_trainer,
}
