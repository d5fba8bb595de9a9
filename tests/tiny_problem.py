"""Classes of a user's own, for tests: a problem whose step takes no time, and weighters that behave and misbehave.

The environment steers what must not enter the key of a run: TINY_SLEEP, seconds per training step; TINY_TRACE, a file
that gets one line for each run whose data are drawn, which is once for each time that a run is started or resumed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch, Data, Evaluation, Metric, Problem, Split, Training
from benchmarks.harness import loop
from benchmarks.problems.in_memory import InMemory, count, mean_over_rows
from benchmarks.seeds import derive, generator
from weighting import Needs, Observation, Weighter

# After every block of steps, so that a run killed at any moment has something to go on from.
loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE = 0.0, float("inf")

SIZES: dict[Split, int] = {"train": 40, "validation": 12, "test": 12}
SCALES = {"small": 0.1, "medium": 1.0, "large": 5.0}


class SlowData(InMemory):
    """Takes its time over every training batch, if the environment asks for it."""

    step = 0

    def train_batch(self, step: int) -> Batch:
        self.step = step
        time.sleep(float(os.environ.get("TINY_SLEEP", "0")))
        return super().train_batch(step)


class Network(nn.Module):
    """Four numbers in, a shared layer, one number out for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 3)
        self.heads = nn.ModuleDict({task: nn.Linear(3, 1) for task in SCALES})

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = torch.tanh(self.shared(x))
        return hidden


class Tiny(Problem):
    """Three linear regressions of different scale. ``spoil``: what goes wrong at training step ``spoil_at``."""

    name = "tiny"
    all_tasks = tuple(SCALES)
    training = Training(steps=20, batch_size=8, lr=0.01, log_every=5, evaluate_every=10)
    splits = "drawn from the seed"

    def __init__(
        self, *, tasks: Sequence[str] | None = None, noise: float = 0.1, spoil: str | None = None, spoil_at: int = 12
    ) -> None:
        super().__init__(tasks=tasks)
        if not noise >= 0:
            raise ValueError(f"tiny: expected noise to be at least 0, found {noise!r}")
        self.noise, self.spoil, self.spoil_at = noise, spoil, spoil_at
        self.drawn: SlowData | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(Metric("mse", task, higher_is_better=False) for task in self.tasks)

    def data(self, seed: int, training: Training) -> Data:
        if trace := os.environ.get("TINY_TRACE"):
            with Path(trace).open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {'+'.join(self.tasks)} {seed}\n")
        truth = torch.randn(4, len(SCALES), generator=generator(seed, self.name, "truth"))
        splits: dict[Split, Batch] = {}
        for split, size in SIZES.items():
            draw = generator(seed, self.name, split)
            x = torch.randn(size, 4, generator=draw)
            y = x @ truth + self.noise * torch.randn(size, len(SCALES), generator=draw)
            splits[split] = {"x": x, "y": y * torch.tensor(list(SCALES.values()))}
        self.drawn = SlowData(self.name, seed, splits, training.batch_size)
        return self.drawn

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, self.name, "parameters"))
            return Network()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Network)
        # Only a training step is an occasion to go wrong: the weighter's first look and the evaluations have no graph.
        errors = self._errors(model, batch)
        is_step = torch.is_grad_enabled() and self.drawn is not None and self.drawn.step >= self.spoil_at
        return self._spoilt(errors) if self.spoil is not None and is_step else errors

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        losses, rows = [], []
        for batch in batches:
            losses.append(self.losses(model, batch))
            rows.append(count(batch))
        mean = mean_over_rows(losses, rows)
        keys = [metric.key for metric in self.metrics]
        return Evaluation(mean, dict(zip(keys, mean.tolist(), strict=True)))

    def shared_layer(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Network)
        return model.shared

    def probe(self, model: nn.Module) -> dict[str, Tensor]:
        assert isinstance(model, Network)
        return {"bias": model.shared.bias.detach()[0]}

    def _errors(self, model: Network, batch: Batch) -> Tensor:
        hidden, columns = model(batch["x"]), list(SCALES)
        errors = [(model.heads[t](hidden)[:, 0] - batch["y"][:, columns.index(t)]).square().mean() for t in self.tasks]
        return torch.stack(errors)

    def _spoilt(self, losses: Tensor) -> Tensor:
        if self.spoil == "nan":
            return losses * torch.tensor([float("nan")] + [1.0] * (self.num_tasks - 1))
        if self.spoil == "infinite":
            return losses + torch.tensor([float("inf")] + [0.0] * (self.num_tasks - 1))
        if self.spoil == "memory":
            raise torch.OutOfMemoryError("no memory for this step")
        if self.spoil == "host memory":
            raise MemoryError
        if self.spoil == "torch's memory":
            # More than any machine has: torch's own words, whatever its version.
            torch.empty(2**60)
        if self.spoil == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("spoilt on purpose\nwith a second line")


class RowsTiny(Tiny):
    """A batch per task, stacked: the rows of the shared layer's input belong to one task each."""

    rows_belong_to_tasks = True

    def _errors(self, model: Network, batch: Batch) -> Tensor:
        columns = list(SCALES)
        hidden = model(batch["x"].repeat(self.num_tasks, 1)).chunk(self.num_tasks)
        errors = [
            (model.heads[task](part)[:, 0] - batch["y"][:, columns.index(task)]).square().mean()
            for task, part in zip(self.tasks, hidden, strict=True)
        ]
        return torch.stack(errors)


class NoLosses(Tiny):
    """Lacks a method of the contract."""

    losses = Problem.losses
    __abstractmethods__ = frozenset({"losses"})


class Needy(Tiny):
    """Cannot be made, for a reason of its own."""

    def __init__(self, *, tasks: Sequence[str] | None = None, words: int = 0) -> None:
        super().__init__(tasks=tasks)
        raise KeyError("a dictionary\nof two lines")


class Fine(Weighter):
    """Halves for all."""

    name = "fine"

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), share: float = 0.5) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.share = share
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.steps: Tensor

    def weights(self, now: Observation) -> Tensor:
        return self.as_weights(self.read(now, "losses").new_full((), self.share), now)

    def update(self, after: Observation) -> None:
        self.steps.add_(1)


class Raises(Fine):
    """Raises at a step."""

    name = "raises"

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), at: int = 7) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.at = at

    def weights(self, now: Observation) -> Tensor:
        if int(self.steps) == self.at:
            raise ArithmeticError("no weights today\nnor tomorrow")
        return super().weights(now)


class TurnsNaN(Raises):
    """Returns NaN from a step on."""

    name = "turns_nan"

    def weights(self, now: Observation) -> Tensor:
        weights = super(Raises, self).weights(now)
        return weights * float("nan") if int(self.steps) >= self.at else weights


class Indignant(Fine):
    """Raises as soon as a task is missing, as one without a finite loss is."""

    name = "indignant"

    def update(self, after: Observation) -> None:
        super().update(after)
        if not self.present(after).all():
            raise ValueError("indignant: expected every task")


class NoWeights(Weighter):
    """Lacks the one method that it must have."""

    name = "no_weights"


class Spy(Fine):
    """Keeps everything it is shown, and asks for what ``asks`` says."""

    name = "spy"
    needs = Needs.VAL_LOSSES | Needs.LOSSES_AFTER_STEP | Needs.GRAD_NORMS | Needs.GRAMIAN

    def __init__(self, num_tasks: int, *, batch_shape: Sequence[int] = (), asks: Needs | None = None) -> None:
        super().__init__(num_tasks, batch_shape=batch_shape)
        self.asks = self.needs if asks is None else asks
        self.started: list[Observation] = []
        self.shown: list[Observation] = []
        self.updates: list[Observation] = []

    def start(self, first: Observation) -> None:
        self.started.append(first)

    def wants(self) -> Needs:
        return self.asks

    def weights(self, now: Observation) -> Tensor:
        self.shown.append(now)
        return super().weights(now)

    def update(self, after: Observation) -> None:
        super().update(after)
        self.updates.append(after)
