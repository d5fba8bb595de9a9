"""Does a trainer pass on what a weighting needs? Two steps without an optimizer, told in words."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weighting.passes import Draws
from weighting.step import WeightedStep

STEPS = 2


@dataclass(frozen=True)
class IntegrationReport:
    """What was found; ``print`` shows it."""

    found: dict[str, str]
    """What was looked at -> what is wrong with it; empty: it comes through."""

    @property
    def ok(self) -> bool:
        """Whether everything comes through."""
        return not any(self.found.values())

    def __str__(self) -> str:
        """A line per finding."""
        return "\n".join(f"{name}: {wrong or 'comes through'}" for name, wrong in self.found.items())


def check_integration(trainer: Any) -> IntegrationReport:
    """Two steps of a Trainer with ``WeightedTasks``, after which trainer, model and generators are as before.

    Looks at the counts, the gradient over accumulation and ranks against one formed here, absent tasks, a saved and loaded
    state, and the logs. On several ranks all must call. Raises TypeError on anything else than such a trainer.
    """
    step = getattr(trainer, "step", None)
    if not isinstance(step, WeightedStep) or not hasattr(trainer, "get_batch_samples"):
        raise TypeError(f"check_integration: expected a Trainer with WeightedTasks, found {type(trainer).__name__}")
    draws, saved, training = Draws.now(), _saved(step), trainer.model.training
    tensors = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    found: dict[str, str] = {}
    try:
        loader = trainer.get_train_dataloader()
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        for _ in range(STEPS):
            found = {**_one_step(trainer, step, batches), **{name: wrong for name, wrong in found.items() if wrong}}
        found["logging"] = _logging(step)
        found["resume"] = _resume(step)
    finally:
        trainer.model.load_state_dict(tensors)
        trainer.model.zero_grad(set_to_none=True)
        trainer.model.train(training)
        step.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
        draws.restore()
    return IntegrationReport(found)


def _one_step(trainer: Any, step: WeightedStep, batches: Any) -> dict[str, str]:
    model, wanted = trainer.model, trainer.args.gradient_accumulation_steps
    group, items = trainer.get_batch_samples(batches, wanted, trainer.args.device)
    trainer.current_gradient_accumulation_steps = len(group)
    model.train()
    model.zero_grad(set_to_none=True)
    draws = Draws.now()
    for batch in group:
        trainer.training_step(model, dict(batch), items)
    got = step.ranks.sum(_gradient(model)) / step.ranks.number
    counts, weights = step.counts, step.weights
    assert counts is not None
    assert weights is not None
    trainer.close_step()
    model.zero_grad(set_to_none=True)
    draws.restore()
    here = torch.zeros_like(counts)
    for batch in group:
        inputs = trainer.on_device(dict(batch))
        here = here + step.vector("counts", trainer.task_counts(inputs)).to(here)
        sums = step.vector("sums", trainer.task_sums(model, inputs)).double()
        (weights.to(sums) * sums / counts.clamp(min=1)).sum().backward()  # type: ignore[no-untyped-call]
    expected, whole = step.ranks.sum(_gradient(model)), step.ranks.sum(here)
    return {
        "counts": _counts(counts, whole, step),
        f"accumulation of {wanted} and {step.ranks.number} ranks": _factor(got, expected),
        "absence": "" if not weights[counts == 0].any() else f"absent tasks have weights {weights.tolist()}",
    }


def _counts(counts: Tensor, whole: Tensor, step: WeightedStep) -> str:
    if not torch.equal(counts, whole):
        return f"expected {whole.tolist()} units of {list(step.tasks)}, found {counts.tolist()}"
    return "" if counts.sum() > 0 else f"expected units of {list(step.tasks)}, found none in a step"


def _factor(got: Tensor, expected: Tensor) -> str:
    close = torch.linalg.vector_norm(got - expected) <= 1e-3 * torch.linalg.vector_norm(expected)
    if bool(close):
        return ""
    factor = float(got @ expected / (expected @ expected).clamp(min=1e-30))
    return f"expected the gradient of sum(w * sum / count) over the whole step, found one of {factor:.4g} times its size"


def _logging(step: WeightedStep) -> str:
    told = step.logs()
    lacking = [task for task in step.tasks if f"weight/{task}" not in told]
    return f"expected weight/<task> for all tasks, found none for {lacking}" if lacking else ""


def _resume(step: WeightedStep) -> str:
    before = _saved(step)
    step.load_state_dict(torch.load(io.BytesIO(before), weights_only=True))
    again = torch.load(io.BytesIO(_saved(step)), weights_only=True)
    kept = torch.load(io.BytesIO(before), weights_only=True)
    lost = [name for name in kept["weighter"] if not _same(kept["weighter"][name], again["weighter"][name])]
    return f"expected the loaded state to be the saved one, found others in {lost}" if lost else ""


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num()) if one.is_floating_point() else torch.equal(one, other)


def _saved(step: WeightedStep) -> bytes:
    buffer = io.BytesIO()
    torch.save(step.state_dict(), buffer)
    return buffer.getvalue()


def _gradient(model: Any) -> Tensor:
    found = [p.grad.detach().flatten().double() for p in model.parameters() if p.grad is not None]
    return torch.cat(found)
