"""A step of each adapter of ``weighting.integrations`` over the same trainer without it.

All train the same small Llama on the same rows, each of one task, in two micro-batches a step. Every block is a training
of its own, whose first step, with what comes before it, is not counted; trainers and methods take turns. Methods that read
validation losses are shown a batch of the size of the whole step.
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
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from weighting import ValidationFeed, WeightedStep, create

TASKS = ("a", "b", "c", "d")
VOCABULARY, TOKENS, ROWS, ACCUMULATION, LR = 512, 128, 8, 2, 1e-3
"""ROWS in a micro-batch."""
ROUNDS, BLOCK_STEPS, WARMUP_ROUNDS = 3, 10, 1
METHODS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "uniform": ("uniform", {}),
    "dwa": ("dwa", {"window": 2}),
    "uncertainty": ("uncertainty", {}),
    "gradnorm": ("gradnorm", {}),
    "famo": ("famo", {}),
    "coba": ("coba", {"warmup": 1, "window": 10}),
    "coba[update_every=5]": ("coba", {"warmup": 1, "window": 10, "update_every": 5}),
}
ALLOWED = {
    "uniform": 1.03,
    "dwa": 1.03,
    "uncertainty": 1.03,
    "gradnorm": 1.03,
    "famo": 1.35,
    "coba": 1.35,
    "coba[update_every=5]": 1.10,
}
"""What the suite aims at, as a multiple of the trainer without weights."""
WITHOUT = "none"


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


Train = Callable[[str, int, Clock], None]
"""Under a method of ``METHODS``, or without weights, so many steps."""


def installed() -> bool:
    """Whether all trainers are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("transformers", "trl", "accelerate", "lightning"))


def adapter_costs(device: torch.device) -> pd.DataFrame:
    """One row per trainer and method: milliseconds of a step, its ratio to the trainer alone with quartiles."""
    ways = [(trainer, method) for trainer in TRAINERS for method in (WITHOUT, *METHODS)]
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    clock = Clock(device)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for number in tqdm(range(WARMUP_ROUNDS + ROUNDS), desc="cost adapters", disable=not sys.stderr.isatty()):
        for trainer, method in ways:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                TRAINERS[trainer](method, BLOCK_STEPS + 1, clock)
            taken = clock.seconds()
            if number >= WARMUP_ROUNDS:
                seconds[trainer, method].append(taken)
    return pd.DataFrame([_row(*way, seconds) for way in ways])


def _row(trainer: str, method: str, seconds: Mapping[tuple[str, str], list[float]]) -> dict[str, Any]:
    ratios = np.array(seconds[trainer, method]) / np.array(seconds[trainer, WITHOUT])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "trainer": trainer,
        "weights": method,
        "ms per step": round(1e3 * float(np.median(seconds[trainer, method])), 2),
        "ratio": round(float(middle), 3),
        "quartiles": f"{low:.3f} to {high:.3f}",
        "allowed": ALLOWED.get(method, math.nan),
    }


# ---- the problem -----------------------------------------------------------------------------------------------------


def make_model() -> Any:
    """A Llama of a million parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=0, eos_token_id=1, **sizes))


def rows(count: int) -> list[dict[str, Any]]:
    """Examples, the tasks in turn."""
    draw = torch.Generator().manual_seed(count)
    ids = torch.randint(2, VOCABULARY, (count, TOKENS), generator=draw).tolist()
    return [{"input_ids": own, "labels": own, "task": TASKS[row % len(TASKS)]} for row, own in enumerate(ids)]


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch with the tasks' numbers."""
    ids = torch.tensor([each["input_ids"] for each in examples])
    return {"input_ids": ids, "labels": ids, "task": torch.tensor([TASKS.index(each["task"]) for each in examples])}


def micro_batches(steps: int) -> list[dict[str, Tensor]]:
    """All of a training."""
    found = rows(steps * ACCUMULATION * ROWS)
    return [collate(found[start : start + ROWS]) for start in range(0, len(found), ROWS)]


def nats(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """``(rows,)`` summed over the tokens of each."""
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1].transpose(1, 2)
    return cross_entropy(logits, batch["labels"][:, 1:], reduction="none").sum(1)


def sums(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """``(K,)``."""
    return torch.zeros(len(TASKS)).index_add(0, batch["task"], nats(model, batch))


def counts(batch: Mapping[str, Tensor]) -> Tensor:
    """``(K,)``."""
    return torch.bincount(batch["task"], minlength=len(TASKS)) * (TOKENS - 1)


def _measure(model: nn.Module) -> Any:
    return lambda batch: (sums(model, batch), counts(batch))


def mean(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """What a trainer without weights minimizes."""
    return nats(model, batch).sum() / (ROWS * (TOKENS - 1))


def settings(method: str, model: nn.Module) -> dict[str, Any]:
    """Of a step object."""
    name, hyperparameters = METHODS[method]
    feed = ValidationFeed(rows(ACCUMULATION * ROWS), collate, batch_size=ACCUMULATION * ROWS)
    shared = [each for key, each in model.named_parameters() if key.endswith("layers.3.mlp.down_proj.weight")]
    return {"weighter": create(name, len(TASKS), **hyperparameters), "tasks": TASKS, "validation": feed, "shared": shared}


# ---- the trainers ----------------------------------------------------------------------------------------------------


def train_by_loop(method: str, steps: int, clock: Clock) -> None:
    """Plain PyTorch."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    step = None
    if method != WITHOUT:
        step = WeightedStep(**settings(method, model), measure=_measure(model), model=model)
    _loop(model, optimizer, step, lambda loss: loss.backward(), steps, clock, 1 / ACCUMULATION)


def train_by_accelerate(method: str, steps: int, clock: Clock) -> None:
    """A loop with an accelerator, which divides by the accumulation steps."""
    from accelerate import Accelerator

    from weighting.integrations.accelerate import accelerated_step

    accelerator = Accelerator(cpu=clock.device.type == "cpu", gradient_accumulation_steps=ACCUMULATION)
    bare = make_model()
    model, optimizer = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=LR))
    step = None
    if method != WITHOUT:
        step = accelerated_step(accelerator, **settings(method, bare), measure=_measure(bare), model=bare)
    _loop(model, optimizer, step, accelerator.backward, steps, clock, 1.0)
    accelerator.free_memory()


def _loop(
    model: nn.Module, optimizer: Any, step: WeightedStep | None, backward: Any, steps: int, clock: Clock, factor: float
) -> None:
    """factor: what the loss without weights is multiplied by."""
    found = micro_batches(steps)
    for number in range(steps):
        batches = found[number * ACCUMULATION : (number + 1) * ACCUMULATION]

        def means(batches: list[dict[str, Tensor]] = batches) -> Tensor:
            counted = torch.stack([counts(batch) for batch in batches]).sum(0)
            return torch.stack([sums(model, batch) for batch in batches]).sum(0) / counted

        if step is not None:
            step.open(torch.stack([counts(batch) for batch in batches]).sum(0), means)
        for batch in batches:
            backward(mean(model, batch) * factor if step is None else step.total(sums(model, batch)))
        optimizer.step()
        optimizer.zero_grad()
        if step is not None:
            step.close(losses_after=means)
        clock.step_ended()


def train_by_lightning(method: str, steps: int, clock: Clock) -> None:
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

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LR)

    class Ends(Callback):
        """An optimizer step has ended where the next micro-batch begins: callbacks of modules come after it otherwise."""

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx and batch_idx % ACCUMULATION == 0:
                clock.step_ended()

    inner, batches = make_model(), micro_batches(steps + 1)
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    module: Any = Plain(inner)
    if method != WITHOUT:
        module, loader = Weighted(**settings(method, inner)), StepBatches(loader, ACCUMULATION)
        module.inner = inner
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    kind = "cpu" if clock.device.type == "cpu" else "gpu"
    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=ACCUMULATION, accelerator=kind, devices=1, callbacks=[Ends()], **quiet
    )
    trainer.fit(module, loader)


def _by_trainer(plain: Any, weighted: Any, make_arguments: Any, more: Mapping[str, Any]) -> Train:
    """A Trainer or a class of it."""
    import transformers

    base: Any = transformers.TrainerCallback

    def train(method: str, steps: int, clock: Clock) -> None:
        class Ends(base):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.step_ended()

        model = make_model()
        given = dict(more) if method == WITHOUT else {**more, **settings(method, model)}
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        with tempfile.TemporaryDirectory() as folder:
            trainer: Any = (plain if method == WITHOUT else weighted)(
                model,
                make_arguments(folder, steps, clock.device),
                train_dataset=_data_set(steps, named=method != WITHOUT),
                optimizers=(optimizer, constant),
                callbacks=[Ends()],
                **given,
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()

    return train


def _data_set(steps: int, *, named: bool) -> Any:
    from datasets import Dataset

    found = Dataset.from_list(rows(steps * ACCUMULATION * ROWS))
    return found if named else found.remove_columns("task")


def _common(steps: int, device: torch.device) -> dict[str, Any]:
    return {
        "max_steps": steps,
        "per_device_train_batch_size": ROWS,
        "gradient_accumulation_steps": ACCUMULATION,
        "use_cpu": device.type == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        "dataloader_pin_memory": False,
    }


def train_by_trainer(method: str, steps: int, clock: Clock) -> None:
    """``transformers.Trainer``."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    from weighting.integrations.transformers import WeightedTasks

    def arguments(folder: str, steps: int, device: torch.device) -> Any:
        return TrainingArguments(folder, **_common(steps, device))

    weighted = type("Weighted", (WeightedTasks, Trainer), {})
    _by_trainer(Trainer, weighted, arguments, {"data_collator": default_data_collator})(method, steps, clock)


def train_by_sft_trainer(method: str, steps: int, clock: Clock) -> None:
    """TRL's."""
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from weighting.integrations.trl import WeightedTasks

    def arguments(folder: str, steps: int, device: torch.device) -> Any:
        tokenized = {"skip_prepare_dataset": True}
        return SFTConfig(folder, bf16=False, dataset_kwargs=tokenized, **_common(steps, device))

    weighted = type("Weighted", (WeightedTasks, SFTTrainer), {})
    _by_trainer(SFTTrainer, weighted, arguments, {"processing_class": _tokenizer()})(method, steps, clock)


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
