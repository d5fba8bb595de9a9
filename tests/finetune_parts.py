"""What tests of finetune_lm share: small problems taken apart, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tiny_models import rows
from torch import Tensor, nn
from torch.nn import functional

import weighting
from benchmarks.contract import Training
from benchmarks.harness.loop import Loop
from benchmarks.problems.finetune.adapt import Adapted
from benchmarks.problems.finetune.examples import Example, Tokens
from benchmarks.problems.finetune.formatting import written
from benchmarks.problems.finetune.models import Pretrained
from benchmarks.problems.finetune.options import Source
from benchmarks.problems.finetune_lm import FinetuneLM
from weighting import RunFacts

SIZES = {"a": 60, "b": 40, "c": 50}
LORA = {"lora": {"rank": 2, "layers": 2}}


def adapted(found: FinetuneLM, seed: int = 0) -> Adapted:
    model = found.model(seed)
    assert isinstance(model, Adapted)
    return model


def ids(found: FinetuneLM, task: str, part: str = "train") -> list[list[int]]:
    examples = found._examples[part][found.all_tasks.index(task)]  # type: ignore[index]
    return [example.ids.tolist() for example in examples]


def exact(model: Adapted) -> Adapted:
    """In float64, so that two ways to one number agree to many digits."""
    model.double()
    model.compute = torch.float64
    return model


def plainly(model: Adapted, example: Example) -> tuple[Tensor, int]:
    """Sum of the cross-entropies of an example, as everybody writes it, and over how many tokens."""
    tokens = torch.from_numpy(example.ids.astype(np.int64))
    causal: Any = model.causal
    logits = causal(input_ids=tokens.unsqueeze(0)).logits[0, :-1]
    nats = functional.cross_entropy(logits, tokens[1:], reduction="none")
    learned = torch.from_numpy(example.learned)[1:]
    return nats[learned].sum(), int(learned.sum())


def gradients(model: nn.Module, values: Tensor) -> list[Tensor]:
    trained = [value for value in model.parameters() if value.requires_grad]
    return list(torch.autograd.grad(values @ torch.tensor([1.0, -2.0, 3.0], dtype=values.dtype), trained))


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], rtol: float = 1e-9) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol / 100)


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def loop_of(found: FinetuneLM, settings: Training, method: str, **more: Any) -> Loop:
    data = found.data(0, settings)
    facts = RunFacts(settings.steps, data.steps_per_epoch, data.num_validation_batches, seed=0)
    weighter = weighting.create(method, found.num_tasks, **weighting.method(method).defaults_for(facts))
    return Loop(found, data, weighter, settings, 0, device=torch.device("cpu"), **more)


def tokenizer() -> Any:
    return Pretrained("tiny", None, "float32", "sdpa", None).tokenizer()


def decoded(found: FinetuneLM, ids: Any) -> str:
    assert found._tokens is not None
    return str(found._tokens.tokenizer.decode(list(ids)))


def learned(found: FinetuneLM, task: str = "a") -> list[str]:
    """What the training examples of a task teach."""
    examples = found._examples["train"][found.all_tasks.index(task)]
    return [decoded(found, example.ids[example.learned]) for example in examples]


def example_of(source: Mapping[str, Any], row: Mapping[str, Any], max_length: int = 500) -> Any:
    own = tokenizer()
    texts = written("a", [row], Source(**source), own)
    (found,) = Tokens(own, max_length).examples("a", texts)
    return found


class FakeHub:
    """In the place of the package datasets."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def load_dataset(self, hub: str, config: str | None, *, split: str, revision: str | None) -> list[dict[str, Any]]:
        self.asked.append((hub, config, split, revision))
        if hub == "nobody/nothing":
            raise FileNotFoundError("Couldn't find 'nobody/nothing'\non the hub")
        return rows(60, f"{config}{split}")
