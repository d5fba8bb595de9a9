"""Training by Lightning, for what by_hand trains without it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import by_hand as small
import torch
from by_hand import TASKS, Result
from by_step import feed, parts_of
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins.precision.amp import MixedPrecision

from weighting.integrations.lightning import StepBatches, WeightedTasks

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(WeightedTasks, lightning.LightningModule):
    """The small problem, which keeps what every step that was made has told."""

    def __init__(self, **options: Any) -> None:
        inner = small.model()
        super().__init__(shared=[small.last_weight(inner)], check_every=1, **options)
        self.inner = inner
        self.losses: list[list[float]] = []
        self.weights: list[Tensor] = []

    def task_counts(self, batch: Any) -> Tensor:
        return small.counts_of(batch)

    def task_sums(self, batch: Any) -> Tensor:
        return small.sums_of(self.inner, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.inner.parameters(), lr=small.LR)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch

    def log_dict(self, dictionary: Any, *arguments: Any, **options: Any) -> None:
        if dictionary:
            assert self.step.weights is not None
            self.losses.append([dictionary[f"loss/{task}"] for task in TASKS])
            self.weights.append(self.step.weights)
        super().log_dict(dictionary, *arguments, **options)


def fitted(
    folder: Path,
    name: str,
    pieces: int = 2,
    rank: int = 0,
    ranks: int = 1,
    *,
    every: int = 0,
    resume: Any = None,
    skipped: int | None = None,
    log_every: int = 1,
) -> Module:
    """Trains an epoch, with a checkpoint ``every`` so many steps, or on from one. skipped: a step that overflows."""
    module = Module(weighter=small.method(name), tasks=TASKS, validation=feed(rank, ranks))
    parts = [part for whole in small.training_batches() for part in parts_of(whole, pieces, rank, ranks)]
    plugins: list[Any] = []
    if skipped is not None:
        scaler = small.overflow(module.inner[2].bias, lambda: module.trainer.global_step == skipped)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    trainer = lightning.Trainer(
        max_epochs=1,
        accumulate_grad_batches=pieces,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        plugins=plugins,
        logger=False,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)] if every else [],
        enable_checkpointing=every > 0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        use_distributed_sampler=False,
        log_every_n_steps=log_every,
    )
    trainer.fit(module, StepBatches(parts, pieces), ckpt_path=resume)
    return module


def result(found: Module) -> Result:
    return Result(torch.tensor(found.losses, dtype=torch.float64), torch.stack(found.weights), small.flat(found.inner))


def run(name: str, folder: Path, pieces: int = 2, rank: int = 0, ranks: int = 1, *, skipped: int | None = None) -> Result:
    return result(fitted(folder, name, pieces, rank, ranks, skipped=skipped))


def resumed(name: str, folder: Path, stop: int) -> Tensor:
    """The parameters of a run that was stopped within an epoch and went on."""
    fitted(folder, name, every=stop)
    return small.flat(fitted(folder, name, resume=folder / f"step={stop}.ckpt").inner)
