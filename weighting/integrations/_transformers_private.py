"""The private parts of transformers and TRL on which the adapters rest, all of them, in one file.

``moved()`` says in words which of them a version of the library no longer has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

TRAINER = {
    "get_batch_samples": ("epoch_iterator", "num_batches", "device"),
    "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
    "compute_loss_context_manager": (),
    "prediction_step": ("model", "inputs", "prediction_loss_only", "ignore_keys"),
    "evaluation_loop": ("dataloader", "description"),
    "log": ("logs",),
    "_prepare_inputs": ("inputs",),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_set_signature_columns_if_needed": (),
    "_get_collator_with_removed_columns": ("data_collator",),
}
"""Methods of ``transformers.Trainer`` with the arguments that the adapter uses."""
SFT_TRAINER = {"_prepare_dataset": ("dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name")}
"""The same of ``trl.SFTTrainer``."""
USED_BY_TRAINING_STEP = ("loss_is_scaled_for_ga", "model_accepts_loss_kwargs")
"""Names in ``Trainer.training_step`` of which one has to say that no division by accumulation steps is wanted."""


def moved(trainer: type, expected: dict[str, tuple[str, ...]]) -> list[str]:
    """What of ``expected`` a class no longer has, each a sentence."""
    found = []
    for name, arguments in expected.items():
        method = getattr(trainer, name, None)
        if method is None:
            found.append(f"{trainer.__name__}.{name} is gone; the adapter rests on it")
            continue
        lost = [argument for argument in arguments if argument not in inspect.signature(method).parameters]
        if lost:
            found.append(f"{trainer.__name__}.{name} has no argument {', '.join(lost)} any more; the adapter gives it")
    return found


def divides_otherwise(trainer: type) -> list[str]:
    """Whether ``training_step`` no longer asks what the adapter answers, as a sentence."""
    source = inspect.getsource(trainer.training_step)  # type: ignore[attr-defined]
    if any(name in source for name in USED_BY_TRAINING_STEP):
        return []
    return [f"{trainer.__name__}.training_step no longer reads {' or '.join(USED_BY_TRAINING_STEP)}: who divides is unknown"]


class TrainerPrivate:
    """Private methods of the Trainer that the adapter adds to."""

    column: str
    _signature_columns: list[str] | None
    load_step: Callable[[str], None]
    """Loads what the adapter saved beside a checkpoint."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            self.load_step(checkpoint)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        if self._signature_columns is not None and self.column not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, self.column]

    def collate_known_columns(self, examples: list[Any]) -> Any:
        """A batch of examples, as the training loader makes it."""
        return self._get_collator_with_removed_columns(self.data_collator)(examples)  # type: ignore[attr-defined]

    def on_device(self, batch: Any) -> dict[str, Any]:
        """The batch on the model's device."""
        found: dict[str, Any] = self._prepare_inputs(batch)  # type: ignore[attr-defined]
        return found

    def undivided(self) -> None:
        """Tell the Trainer that the total is over all micro-batches already."""
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True


class SFTPrivate:
    """TRL's preparation, which drops all columns but its own, made task by task: packed rows hold one task each."""

    column: str

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **options: Any) -> Any:
        prepare = super()._prepare_dataset  # type: ignore[misc]
        if dataset is None or self.column not in (dataset.column_names or []) or not hasattr(dataset, "select"):
            return prepare(dataset, *arguments, **options)
        from datasets import concatenate_datasets

        found = []
        for task in sorted(set(dataset[self.column])):
            rows = [row for row, other in enumerate(dataset[self.column]) if other == task]
            prepared = prepare(dataset.select(rows).remove_columns(self.column), *arguments, **options)
            found.append(prepared.add_column(self.column, [task] * len(prepared)))
        return concatenate_datasets(found)


def has_fused_head() -> bool:
    """Whether the installed TRL gives its SFTTrainer's model a head that makes no logits, and has what computes it."""
    from trl.trainer import utils

    return hasattr(utils, "add_fused_lm_head") and getattr(utils, "_ChunkedLogProbFunction", None) is not None


def fused_nats(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Nats of every next token ``(rows, tokens - 1)`` by TRL's fused head, without logits in memory."""
    found: Tensor = -model(**inputs, use_cache=False, fused_lm_head=True).log_probs
    return found
