"""Lightning with task weights against training by hand: accumulation, resuming, logs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import by_hand as small
import pytest
import torch
from by_hand import METHODS, STEPS, TASKS
from ranks import RANKS, free_port, on_ranks
from torch import Tensor

from weighting import ValidationFeed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning")

from weighting.integrations.lightning import StepBatches, WeightedTasks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(WeightedTasks, lightning.LightningModule):  # type: ignore[misc, name-defined]
    """The small problem."""

    def __init__(self, **options: Any) -> None:
        inner = small.model()
        super().__init__(shared=[inner[2].weight], check_every=1, **options)
        self.inner = inner
        self.weights: list[Tensor] = []

    def task_counts(self, batch: Any) -> Tensor:
        return small.counts_of(batch)

    def task_sums(self, batch: Any) -> Tensor:
        return small.sums_of(self.inner, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.inner.parameters(), lr=small.LR)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch

    def close_step(self) -> None:
        assert self.step.weights is not None
        self.weights.append(self.step.weights)
        super().close_step()


def fitted(
    folder: Path, name: str, pieces: int, rank: int = 0, ranks: int = 1, steps: slice = slice(None), resume: Any = None
) -> Module:
    """steps: those of the epoch that is trained; resume: a checkpoint of the epoch before."""
    rows = small.validation_rows()
    feed = ValidationFeed(range(13), lambda chosen: rows[chosen], batch_size=6, rank=rank, ranks=ranks)
    module = Module(weighter=small.method(name), tasks=TASKS, validation=feed)
    parts = []
    for whole in small.training_batches()[steps]:
        own = torch.arange(len(whole.task))[rank::ranks]
        parts += [whole[each] for each in own.tensor_split(pieces)]
    trainer = lightning.Trainer(
        max_epochs=1 if resume is None else 2,
        accumulate_grad_batches=pieces,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        use_distributed_sampler=False,
    )
    trainer.fit(module, StepBatches(parts, pieces), ckpt_path=resume)
    if steps.stop:
        trainer.save_checkpoint(folder / "stopped.ckpt")
    return module


def assert_as_by_hand(found: Module, name: str) -> None:
    expected = small.by_hand(name)
    torch.testing.assert_close(torch.stack(found.weights), expected.weights, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(small.flat(found.inner), expected.parameters, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("name", METHODS)
def test_accumulation_trains_as_whole_batches_by_hand(name: str, pieces: int, tmp_path: Path) -> None:
    found = fitted(tmp_path, name, pieces)
    assert_as_by_hand(found, name)
    assert "weight/code" in found.trainer.logged_metrics


@pytest.mark.parametrize("name", ["coba", "famo", "gradnorm"])
def test_a_checkpoint_goes_on_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    for stop in range(1, STEPS):
        fitted(tmp_path, name, 2, steps=slice(stop))
        resumed = fitted(tmp_path, name, 2, steps=slice(stop, None), resume=tmp_path / "stopped.ckpt")
        assert resumed.step.steps == STEPS
        torch.testing.assert_close(small.flat(resumed.inner), small.by_hand(name).parameters, rtol=1e-10, atol=1e-10)


def on_a_rank(rank: int, folder: str) -> dict[str, Any]:
    found = {name: fitted(Path(folder), name, 2, rank, RANKS) for name in METHODS}
    return {name: (torch.stack(each.weights), small.flat(each.inner)) for name, each in found.items()}


def test_two_ranks_with_accumulation_train_as_whole_batches_by_hand(tmp_path: Path) -> None:
    for found in on_ranks(tmp_path, on_a_rank, str(tmp_path), port=free_port()):
        for name in METHODS:
            expected = small.by_hand(name)
            torch.testing.assert_close(found[name][0], expected.weights, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(found[name][1], expected.parameters, rtol=1e-10, atol=1e-10)


def test_a_loader_that_does_not_look_ahead_is_refused() -> None:
    module = Module(weighter=small.method("uniform"), tasks=TASKS)
    with pytest.raises(TypeError, match=r"expected micro-batches of StepBatches\(loader, ...\), found Batch"):
        module.training_step(small.training_batches()[0], 0)
