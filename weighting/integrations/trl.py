"""Task weights in ``trl.SFTTrainer``::

    class MyTrainer(WeightedTasks, SFTTrainer): ...

As in ``weighting.integrations.transformers``; rows are prepared and packed task by task, and TRL's fused head is used
where the installed version has one that runs here; else the model makes its logits.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from weighting._per_task import PerTask
from weighting.integrations._transformers_private import SFTPrivate, fused_nats, has_fused_head
from weighting.integrations.tokens import COLUMN, sums_of_nats
from weighting.integrations.transformers import WeightedTasks as TrainerTasks


class WeightedTasks(SFTPrivate, TrainerTasks):
    """A mixin, before ``SFTTrainer``; arguments as those of the Trainer's."""

    def task_sums(self, model: nn.Module, inputs: dict[str, Any]) -> PerTask:
        """The nats of each task's predicted tokens, by the fused head if there is one; or the losses of one's own."""
        if type(self).task_losses is not TrainerTasks.task_losses or not has_fused_head():
            return super().task_sums(model, inputs)
        passed = {key: value for key, value in inputs.items() if key != COLUMN}
        return sums_of_nats(fused_nats(model, passed), inputs, len(self.tasks))

    def prepared_validation(self, data: Any) -> Any:
        """Tokenized as the training data are, not packed."""
        given: Any = self
        if (given.args.dataset_kwargs or {}).get("skip_prepare_dataset", False):
            return data
        return self._prepare_dataset(data, given.processing_class, given.args, False, None, "validation")
