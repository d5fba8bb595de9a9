"""Task weights in a loop with ``accelerate.Accelerator``::

    step = accelerated_step(accelerator, weighting.create("dwa", 2), ["code", "text"])
    for batches in step.groups(loader):                          # the micro-batches of one optimizer step
        step.open(sum(count_tokens(batch) for batch in batches))
        for batch in step.each(batches, model):                  # gradients are synchronized at the last one
            accelerator.backward(step.total(task_sums(model, batch)))
        optimizer.step(); optimizer.zero_grad()
        step.close(skipped=accelerator.optimizer_step_was_skipped)

``accelerator.accumulate`` is not used: it learns of the end of the loader before its last micro-batches are trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from accelerate import Accelerator

from weighting.contract import Weighter
from weighting.step import WeightedStep


class AcceleratedStep(WeightedStep):
    """A step that knows the accelerator's factors: it averages over its processes and divides by its accumulation steps."""

    def __init__(self, accelerator: Accelerator, weighter: Weighter, tasks: Sequence[str], **settings: Any) -> None:
        self.accelerator = accelerator
        divided = accelerator.gradient_accumulation_steps
        super().__init__(weighter, tasks, ranks_averaged=accelerator.num_processes, loss_divided_by=divided, **settings)

    def groups(self, loader: Iterable[Any]) -> Iterator[list[Any]]:
        """The micro-batches of each optimizer step: the accelerator's number of them, at the end of the loader fewer."""
        found: list[Any] = []
        for batch in loader:
            found.append(batch)
            if len(found) == self.accelerator.gradient_accumulation_steps:
                yield found
                found = []
        if found:
            yield found

    def each(self, batches: Sequence[Any], model: Any) -> Iterator[Any]:
        """One micro-batch after the other; the ranks' gradients are averaged at the last."""
        for place, batch in enumerate(batches):
            last = place == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                yield batch


def accelerated_step(accelerator: Accelerator, weighter: Weighter, tasks: Sequence[str], **settings: Any) -> AcceleratedStep:
    """A step that ``accelerator.save_state`` and ``load_state`` save and load; settings as those of ``WeightedStep``."""
    step = AcceleratedStep(accelerator, weighter, tasks, **settings)
    accelerator.register_for_checkpointing(step)
    return step
