"""Task weights in a ``lightning.LightningModule`` under automatic optimization::

    class MyModule(WeightedTasks, lightning.LightningModule):
        def task_counts(self, batch): ...                         # (K,), or a number by task
        def task_sums(self, batch): ...                           # (K,), summed over units, with graph

    module = MyModule(weighter=weighting.create("dwa", 2), tasks=["code", "text"])
    trainer.fit(module, StepBatches(loader, trainer.accumulate_grad_batches))

``StepBatches`` reads the micro-batches of an optimizer step in advance, as their counts have to be known before the first
backward pass. With manual optimization use ``WeightedStep`` itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from weighting._per_task import PerTask
from weighting.contract import Weighter
from weighting.micro_batches import MicroBatches
from weighting.step import WeightedStep


@dataclass
class MicroBatch:
    """A micro-batch, and all of its optimizer step where it is the first."""

    batch: Any
    whole: list[Any] | None


class StepBatches:
    """A loader whose first micro-batch of each optimizer step comes with the others of the step.

    loader      with a length; on several ranks with a sampler of this rank's rows, which Lightning cannot put in here
    accumulate  ``accumulate_grad_batches`` of the Trainer

    A run that resumes within an epoch goes on with the batch after the last one: those before are read and left out, so the
    loader must give them in the same order again (a sampler with a seed of its own for the epoch).
    """

    def __init__(self, loader: Any, accumulate: int = 1) -> None:
        self.loader, self.accumulate = loader, accumulate
        self._given = self._left_out = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[MicroBatch]:
        self._given, self._left_out = self._left_out, 0
        waiting: list[Any] = []
        for batch in itertools.islice(self.loader, self._given, None):
            waiting.append(batch)
            if len(waiting) == self.accumulate:
                yield from self._marked(waiting)
                waiting = []
        yield from self._marked(waiting)

    def state_dict(self) -> dict[str, int]:
        """How many micro-batches of the epoch were given."""
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after them in the coming epoch; after a whole epoch, with its first."""
        self._left_out = state["given"] % len(self)

    def _marked(self, batches: list[Any]) -> Iterator[MicroBatch]:
        for place, batch in enumerate(batches):
            self._given += 1
            yield MicroBatch(batch, batches if place == 0 else None)


class WeightedTasks:
    """A mixin, before ``LightningModule``; the module overrides ``task_counts`` and ``task_sums``, or ``task_rows`` too.

    weighter    of K tasks
    tasks       their names
    settings    as those of ``WeightedStep``; its factors are read off the Trainer when training begins

    Logs ``loss/<task>``, ``weight/<task>`` and ``count/<task>``, which are those of all ranks already, as means since the
    last ones, every ``log_every_n_steps`` of the Trainer; checkpoints hold the step's state.
    """

    def __init__(self, *arguments: Any, weighter: Weighter, tasks: Sequence[str], **options: Any) -> None:
        settings = {name: options.pop(name) for name in ("validation", "shared", "lagged", "check_every") if name in options}
        super().__init__(*arguments, **options)
        self._weighting = (weighter, tuple(tasks), settings)
        self._step: WeightedStep | None = None
        self._saved: dict[str, Any] | None = None
        self._micro_batches: MicroBatches | None = None

    def task_counts(self, batch: Any) -> PerTask:
        """Units of each task in a micro-batch."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method task_counts(batch), found none")

    def task_sums(self, batch: Any) -> PerTask:
        """Each task's loss, summed over its units of a micro-batch, with graph."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method task_sums(batch), found none")

    def task_rows(self, batch: Any) -> Tensor | None:
        """``(rows,)`` the number of each row's task, where every row of what the model computes belongs to one; else None.

        A module that gives it has GradNorm's norms at a linear layer without further backward passes.
        """
        return None

    @property
    def step(self) -> WeightedStep:
        """The step object; there is one once ``fit`` has begun."""
        if self._step is None:
            self._step = self._made()
        return self._step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The weighted total of a micro-batch."""
        if not isinstance(batch, MicroBatch):
            raise TypeError(
                f"WeightedTasks: expected micro-batches of StepBatches(loader, ...), found {type(batch).__name__}"
            )
        sums = self.task_sums(batch.batch) if batch.whole is None else self._open(*batch.whole)
        return self.step.total(sums, self.task_rows(batch.batch))

    def configure_callbacks(self) -> Any:
        """Those of the module, and what closes a step."""
        found = super().configure_callbacks()  # type: ignore[misc]
        return [*(found if isinstance(found, list | tuple) else [found]), _AtTheStep()]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """All micro-batches of a step, where it begins."""
        move = super().transfer_batch_to_device  # type: ignore[misc]
        if not isinstance(batch, MicroBatch):
            return move(batch, device, dataloader_idx)
        whole = None if batch.whole is None else [move(each, device, dataloader_idx) for each in batch.whole]
        return MicroBatch(whole[0] if whole else move(batch.batch, device, dataloader_idx), whole)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With the step's state."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint["weighting"] = self.step.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError where the checkpoint lacks the step's state."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        if "weighting" not in checkpoint:
            raise ValueError("WeightedTasks: expected 'weighting' in the checkpoint, found none; it has no weights")
        self._saved = checkpoint["weighting"]

    def _made(self) -> WeightedStep:
        given: Any = self
        weighter, tasks, settings = self._weighting
        step = WeightedStep(
            weighter,
            tasks,
            ranks_averaged=given.trainer.world_size,
            loss_divided_by=given.trainer.accumulate_grad_batches,
            measure=self._measure if "validation" in settings else None,
            model=given,
            **settings,
        )
        if self._saved is not None:
            step.load_state_dict(self._saved)
        return step

    def _bare_sums(self, batch: Any) -> PerTask:
        given: Any = self
        with given.trainer.precision_plugin.forward_context():
            return self.task_sums(batch)

    def _measure(self, batch: Any) -> tuple[PerTask, PerTask]:
        return self._bare_sums(batch), self.task_counts(batch)

    def _open(self, first: Any, *others: Any) -> PerTask:
        """Open a step; the sums of its first micro-batch. Where losses have to be known before, its pass is made once."""
        self._micro_batches = MicroBatches(self.step, [first, *others], self.task_counts, self._bare_sums)
        return self._micro_batches.open(self.task_sums)

    def close_step(self, *, skipped: bool = False) -> None:
        """After the optimizer, whether it made its step or a gradient scaler skipped it."""
        given: Any = self
        whole, self._micro_batches = self._micro_batches, None
        self.step.close(skipped=skipped, losses_after=None if whole is None else whole.mean_losses)
        # Lightning keeps what is logged in the steps between for nobody, at the price of a small forward pass.
        if given.trainer.global_step % max(given.trainer.log_every_n_steps, 1) == 0:
            given.log_dict(self.step.logs(), on_step=True, on_epoch=False, batch_size=1)


class _AtTheStep(Callback):
    """Notices that the optimizer was asked for its step."""

    def __init__(self) -> None:
        self.seen = 0
        self.scale: float | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Where a run begins or goes on."""
        self.seen = trainer.global_step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Lightning counts a step that its scaler skipped as one that was made; the scale alone tells."""
        self.scale = _scale(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """One micro-batch was trained on."""
        if trainer.global_step > self.seen:
            self.seen = trainer.global_step
            scale = _scale(trainer)
            pl_module.close_step(skipped=scale is not None and self.scale is not None and scale < self.scale)


def _scale(trainer: Any) -> float | None:
    """Of the gradient scaler; None without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else float(scaler.get_scale())
