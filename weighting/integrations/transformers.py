"""Task weights in ``transformers.Trainer``::

    class MyTrainer(WeightedTasks, Trainer): ...

    trainer = MyTrainer(model, args, train_dataset=data, weighter=weighting.create("dwa", 2), tasks=["code", "text"])

The data have a column ``task``, names or numbers; ``column=`` names another. Losses are means over the predicted tokens of
each task in the whole step; other losses: ``task_losses`` and ``task_counts``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from weighting._per_task import PerTask
from weighting.contract import Weighter
from weighting.integrations._transformers_private import TrainerPrivate
from weighting.integrations.tokens import COLUMN, TaskCollator, number_of, token_counts, token_sums
from weighting.losses import TaskLosses
from weighting.micro_batches import MicroBatches
from weighting.observation import Needs, wide
from weighting.passes import apart
from weighting.step import WeightedStep
from weighting.validation import ValidationFeed

FILE = "weighting.pt"
"""What is saved in every checkpoint folder."""


class WeightedTasks(TrainerPrivate):
    """A mixin, before the Trainer's class.

    weighter    of K tasks
    tasks       their names
    column      name of the data's column that says the task of a row
    validation  a data set like the training data, for methods that read validation losses: mini-batches as large as
                a whole step, balanced by task; or a ``ValidationFeed``
    shared      the layer, or its parameters, whose gradients GradNorm compares
    lagged, check_every  as in ``WeightedStep``

    Logs ``loss/<task>``, ``weight/<task>`` and ``count/<task>``; evaluation gives ``eval_<task>_loss``, raw, and their mean
    ``eval_mean_task_loss``. Raises ValueError where one process drives several devices, or a checkpoint holds no weights.
    """

    def __init__(
        self,
        *arguments: Any,
        weighter: Weighter,
        tasks: Sequence[str],
        column: str = COLUMN,
        validation: Any = None,
        shared: nn.Module | Iterable[Tensor] | None = None,
        lagged: bool = False,
        check_every: int = 100,
        **options: Any,
    ) -> None:
        self.tasks, self.column = tuple(tasks), column
        super().__init__(*arguments, **options)
        given: Any = self
        self.data_collator = TaskCollator(given.data_collator, self.tasks, column)
        if given.args.n_gpu > 1:
            raise ValueError(
                f"WeightedTasks: expected one device per process, found {given.args.n_gpu}; start with torchrun"
            )
        self.undivided()
        self.step = WeightedStep(
            weighter,
            self.tasks,
            ranks_averaged=given.args.world_size,
            validation=validation if isinstance(validation, ValidationFeed | None) else self._feed(validation),
            measure=None if validation is None else self._measure,
            model=given.model,
            shared=shared,
            lagged=lagged,
            check_every=check_every,
        )
        self._waiting: list[Any] = []
        self._micro_batches: MicroBatches | None = None
        self._evaluated = TaskLosses(len(self.tasks), device=given.args.device)
        given.add_callback(_AtTheStep(self))

    # ---- what other losses override ----------------------------------------------------------------------------------

    def task_sums(self, model: nn.Module, inputs: dict[str, Any]) -> PerTask:
        """Each task's loss, summed over its units of a batch, with graph: by default the nats of its predicted tokens."""
        if type(self).task_losses is not WeightedTasks.task_losses:
            means, counts = self.task_losses(model, inputs), self._vector(self.task_counts(inputs))
            return {task: loss * counts[self.tasks.index(task)] for task, loss in means.items()}
        passed = {key: value for key, value in inputs.items() if key not in (COLUMN, "labels")}
        return token_sums(model(**passed).logits, inputs, len(self.tasks))

    def task_losses(self, model: nn.Module, inputs: dict[str, Any]) -> Mapping[str, Tensor]:
        """For losses that are not those of tokens: each task's mean loss over its units of a batch, with graph, by name.

        Who does not override it has losses of tokens, and it is not called.
        """
        raise NotImplementedError(f"{type(self).__name__}: expected task_losses(model, inputs) of its own, found none")

    def task_counts(self, inputs: dict[str, Any]) -> PerTask:
        """Units of each task in a batch: its predicted tokens, or, with losses of one's own, the rows of the batch."""
        if type(self).task_losses is not WeightedTasks.task_losses:
            rows = next(len(value) for value in inputs.values() if isinstance(value, Tensor))
            return dict.fromkeys(self.tasks, rows)
        return token_counts(inputs, len(self.tasks))

    def task_rows(self, inputs: dict[str, Any]) -> Tensor | None:
        """``(rows,)`` the number of each row's task, where every row of what the model computes belongs to one; else None.

        By default the column's, where losses are those of tokens and no two examples share a row.
        """
        column = inputs.get(COLUMN)
        of_tokens = type(self).task_losses is WeightedTasks.task_losses
        return column if of_tokens and isinstance(column, Tensor) and column.dim() == 1 else None

    # ---- the Trainer's methods ---------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """All micro-batches of the coming optimizer step."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self._waiting = batches
        return batches, torch.tensor(1, device=device) if items is None else items

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """The weighted total of a micro-batch; in evaluation, what the Trainer computes."""
        given: Any = self
        if not given.model.training:
            passed = {key: value for key, value in inputs.items() if key != COLUMN}
            return super().compute_loss(model, passed, return_outputs, num_items_in_batch)  # type: ignore[misc]
        if self._waiting:
            # Not before: a Trainer that resumes sets its random generators after it has fetched the batches.
            (first, *others), self._waiting = [self.on_device(batch) for batch in self._waiting], []
            sums = self._open(model, first, others)
        else:
            sums = self.task_sums(model, inputs)
        total = self.step.total(sums, self.task_rows(inputs))
        return (total, {}) if return_outputs else total

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """Adds up each task's losses beside the Trainer's."""
        given: Any = self
        inputs = self.on_device(inputs)
        with torch.no_grad(), given.compute_loss_context_manager():
            sums, counts = self._vector(self.task_sums(model, inputs)), self._vector(self.task_counts(inputs))
        self._evaluated.add(sums, counts)
        if prediction_loss_only or type(self).task_losses is not WeightedTasks.task_losses:
            return (sums.sum() / counts.sum().clamp(min=1)).detach(), None, None
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)  # type: ignore[misc]

    def evaluation_loop(self, *arguments: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        """With each task's raw loss over the whole set, and their mean."""
        self._evaluated.clear()
        output = super().evaluation_loop(*arguments, metric_key_prefix=metric_key_prefix, **options)  # type: ignore[misc]
        seen = self._evaluated.observation()
        assert seen.losses is not None
        assert seen.present is not None
        losses = torch.where(seen.present, seen.losses, torch.nan)
        for task, loss in zip(self.tasks, losses.tolist(), strict=True):
            output.metrics[f"{metric_key_prefix}_{task}_loss"] = loss
        output.metrics[f"{metric_key_prefix}_mean_task_loss"] = float(losses.nanmean())
        return output

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """With the step's means beside the Trainer's loss."""
        if "loss" in logs:
            logs |= self.step.logs()
        super().log(logs, *arguments, **options)  # type: ignore[misc]

    # ---- the step ----------------------------------------------------------------------------------------------------

    def _open(self, model: Any, first: dict[str, Any], others: list[dict[str, Any]]) -> PerTask:
        """Open a step; the sums of its first micro-batch. Where losses have to be known before, its pass is made once."""
        given: Any = self
        self._micro_batches = whole = MicroBatches(self.step, [first, *others], self._counts, self._bare_sums)
        sums = whole.open(lambda batch: self.task_sums(model, batch))
        if self._is_reentrant():
            with apart(given.model, evaluation=False, grad=True), given.compute_loss_context_manager():
                for batch in [first, *others]:
                    self.step.gradients_of(self.task_sums(given.model, batch))
        return sums

    def close_step(self) -> None:
        """After the optimizer, whether it made its step or skipped it."""
        given: Any = self
        whole, self._micro_batches = self._micro_batches, None
        self.step.close(
            skipped=given.accelerator.optimizer_step_was_skipped,
            losses_after=None if whole is None else whole.mean_losses,
        )

    def _counts(self, batch: dict[str, Any]) -> Tensor:
        given: Any = self
        return wide(self._vector(self.task_counts(batch)), given.args.device)

    def _bare_sums(self, batch: dict[str, Any]) -> Tensor:
        given: Any = self
        with given.compute_loss_context_manager():
            return self._vector(self.task_sums(given.model, self.on_device(batch)))

    def _measure(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self._bare_sums(batch), self._counts(batch)

    def _vector(self, values: PerTask) -> Tensor:
        return self.step.vector("task losses or counts", values)

    def _is_reentrant(self) -> bool:
        given: Any = self
        options = given.args.gradient_checkpointing_kwargs or {}
        asked = Needs.GRAD_NORMS in self.step.weighter.needs
        return asked and given.args.gradient_checkpointing and options.get("use_reentrant", False)

    def _feed(self, data: Any) -> ValidationFeed:
        """Balanced by task, in mini-batches of the size of a whole step over micro-batches and ranks."""
        given: Any = self
        data = self.prepared_validation(data)
        tasks = None
        if self.column in data[0]:
            tasks = [number_of(data[row][self.column], self.tasks, self.column) for row in range(len(data))]
        groups = 1 if tasks is None else len(set(tasks))
        rank, ranks = given.args.process_index, given.args.world_size
        size = given.args.per_device_train_batch_size * given.args.gradient_accumulation_steps * ranks
        size = -(-size // groups) * groups
        return ValidationFeed(data, self.collate_known_columns, batch_size=size, tasks=tasks, rank=rank, ranks=ranks)

    def prepared_validation(self, data: Any) -> Any:
        """Validation data as the collator takes them."""
        return data

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def save_step(self, folder: str) -> None:
        """Into a checkpoint's folder."""
        torch.save(self.step.state_dict(), Path(folder) / FILE)

    def load_step(self, checkpoint: str) -> None:
        """From a checkpoint's folder. Raises ValueError where it lacks the file."""
        given: Any = self
        place = Path(checkpoint) / FILE
        if not place.exists():
            raise ValueError(
                f"WeightedTasks: expected {FILE} in {checkpoint}, found none; it was saved without task weights"
            )
        self.step.load_state_dict(torch.load(place, map_location=given.args.device, weights_only=True))


class _AtTheStep(TrainerCallback):
    """Calls of the Trainer at the moments that matter."""

    def __init__(self, trainer: WeightedTasks) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """The optimizer was asked for its step."""
        self.trainer.close_step()

    def on_save(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """A checkpoint was written."""
        if state.is_world_process_zero:
            self.trainer.save_step(str(Path(args.output_dir) / f"checkpoint-{state.global_step}"))
