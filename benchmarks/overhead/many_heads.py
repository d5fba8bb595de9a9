"""Forty binary attributes of one input, as in CelebA: a small trunk that all tasks share, a linear head for each.

The step of a method on the Gramian is dearest where many tasks share all rows. The data are drawn: only the cost is of use.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contract import Batch, Evaluation, Metric, Problem, Split, Training
from benchmarks.problems.in_memory import InMemory, mean_over_rows
from benchmarks.seeds import derive, generator

HEADS, INPUTS, WIDTH, FEATURES = 40, 128, 128, 64
SIZES: dict[Split, int] = {"train": 4096, "validation": 256, "test": 256}


class Network(nn.Module):
    """Features ``(N, 64)`` of inputs ``(N, 128)``, and one logit for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, FEATURES)
        )
        self.heads = nn.ModuleList(nn.Linear(FEATURES, 1) for _ in range(HEADS))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits ``(N,)`` of each task."""
        features = torch.relu(self.trunk(x))
        return [head(features)[:, 0] for head in self.heads]


class ManyHeads(Problem):
    """40 tasks."""

    name = "many_heads"
    all_tasks = tuple(f"attribute_{place}" for place in range(HEADS))
    training = Training(steps=1000, batch_size=64)
    splits = "drawn from the seed"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The loss of each task."""
        return tuple(Metric("cross_entropy", task, higher_is_better=False) for task in self.tasks)

    def data(self, seed: int, training: Training) -> InMemory:
        """Normal inputs, and the signs of noisy linear functions of them."""
        draw = generator(seed, self.name, "data")
        truth = torch.randn(INPUTS, HEADS, generator=draw)
        splits: dict[Split, Batch] = {}
        for split, size in SIZES.items():
            x = torch.randn(size, INPUTS, generator=draw)
            noise = torch.randn(size, HEADS, generator=draw) * INPUTS**0.5
            splits[split] = {"x": x, "y": ((x @ truth + noise) > 0).float()}
        return InMemory(self.name, seed, splits, training.batch_size)

    def model(self, seed: int) -> nn.Module:
        """With the initial parameters of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, self.name, "parameters"))
            return Network()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """``(K,)`` binary cross-entropies."""
        assert isinstance(model, Network)
        logits = model(batch["x"])
        places = [self.all_tasks.index(task) for task in self.tasks]
        each = [functional.binary_cross_entropy_with_logits(logits[place], batch["y"][:, place]) for place in places]
        return torch.stack(each)

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Mean losses."""
        found = [(self.losses(model, batch), len(batch["x"])) for batch in batches]
        mean = mean_over_rows([losses for losses, _ in found], [rows for _, rows in found])
        return Evaluation(mean, dict(zip([metric.key for metric in self.metrics], mean.tolist(), strict=True)))

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The last layer of the trunk."""
        assert isinstance(model, Network)
        layer = model.trunk[-1]
        assert isinstance(layer, nn.Module)
        return layer
