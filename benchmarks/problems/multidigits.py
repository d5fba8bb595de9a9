"""Two overlaid handwritten digits, seen through noise: name the left one, name the right one, clean the picture.

Source    the shape of MultiMNIST: Sabour, Frosst, Hinton, Dynamic Routing Between Capsules, NeurIPS 2017, and Sener,
          Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018 (left and right digit); the images are
          the 1,797 digits of 8 x 8 pixels bundled with scikit-learn (Alpaydin and Kaynak, UCI, 1998).
Symbols   pixels are grey values in [0, 1]; loss of a digit: cross-entropy in nats; loss of the reconstruction: mean squared
          error per pixel.
Departs   from MultiMNIST: small digits, 12 x 12 canvas, a noisy input, and the third task, which differs from the others
          in kind and in scale: 0.2 against 2.3 at the start. Nothing evens the scales out, that is the weighter's work.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contract import Batch, Data, Evaluation, Metric, Problem, Split, Training
from benchmarks.problems.in_memory import InMemory, count, mean_over_rows
from benchmarks.seeds import derive, generator
from weighting._checks import check

SIDE, CANVAS = 8, 12
"""Pixels along a digit and along the canvas: the digits share a square of 4 x 4."""
DIGITS_FILE = "datasets/data/digits.csv.gz"
"""Within scikit-learn: a row of 64 pixels from 0 to 16, row by row of the image, and the class, for each digit."""
SHARES: dict[Split, tuple[float, float]] = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
"""Where each split begins and ends in the shuffled digits."""


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All images ``(1797, 8, 8)`` in [0, 1] and their classes ``(1797,)``, in scikit-learn's order.

    Raises FileNotFoundError where scikit-learn, or its file of digits, is not installed.
    """
    # The file is read where it lies: importing scikit-learn takes as long as training half of a short run.
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("multidigits: expected scikit-learn with its digits, found none: pip install scikit-learn")
    rows = pd.read_csv(Path(package.origin).parent / DIGITS_FILE, header=None).to_numpy()
    pixels, classes = torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, -1])
    return pixels.reshape(-1, SIDE, SIDE).to(torch.float32) / 16.0, classes.clone()


def split_digits(seed: int) -> dict[Split, Tensor]:
    """Indices of the digits of each split: a shuffled 60, 20 and 20 %. Disjoint, since digits are split before pairing."""
    num = len(digits()[1])
    order = torch.randperm(num, generator=generator(seed, MultiDigits.name, "split"))
    return {split: order[round(begin * num) : round(end * num)] for split, (begin, end) in SHARES.items()}


def overlay(left: Tensor, right: Tensor) -> Tensor:
    """Canvas ``(N, 12, 12)`` with the left digits ``(N, 8, 8)`` at the upper left and the right ones at the lower right.

    Where they overlap the brighter pixel wins, as ink on ink would.
    """
    canvas = torch.zeros(len(left), 2, CANVAS, CANVAS)
    canvas[:, 0, :SIDE, :SIDE] = left
    canvas[:, 1, -SIDE:, -SIDE:] = right
    return canvas.amax(1)


class Network(nn.Module):
    """Noisy canvas in, three answers out: two convolutions and a linear layer that all tasks share, one linear head each."""

    def __init__(self) -> None:
        super().__init__()
        # Strides instead of pooling: as accurate here and a step in half the time.
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.shared = nn.Linear(32 * (CANVAS // 4) ** 2, 128)
        self.left = nn.Linear(128, 10)
        self.right = nn.Linear(128, 10)
        self.reconstruction = nn.Linear(128, CANVAS * CANVAS)

    def forward(self, noisy: Tensor) -> Tensor:
        """Canvases ``(N, 12, 12)`` to features ``(N, 128)``."""
        return torch.relu(self.shared(self.trunk(noisy.unsqueeze(1))))

    def answer(self, task: str, features: Tensor) -> Tensor:
        """Logits ``(N, 10)`` or pixels ``(N, 12, 12)`` of one task."""
        if task == "reconstruction":
            return torch.unflatten(self.reconstruction(features), 1, (CANVAS, CANVAS))
        logits: Tensor = (self.left if task == "left" else self.right)(features)
        return logits


class MultiDigits(Problem):
    """Left digit, right digit and clean canvas, from a noisy canvas with two overlapping digits.

    noise        standard deviation of the normal noise added to every pixel, >= 0
    train_pairs  pairs of digits in the training split, >= 1; likewise validation_pairs, test_pairs

    Raises ValueError on unknown tasks, negative noise or a split without pairs.
    """

    name = "multidigits"
    all_tasks = ("left", "right", "reconstruction")
    training = Training(steps=1500, batch_size=64, lr=1e-3, log_every=10, evaluate_every=50)
    splits = "scikit-learn's digits, shuffled by the seed, 60/20/20 %, then paired within each split."
    small = {"train_pairs": 100, "validation_pairs": 30, "test_pairs": 40}

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        noise: float = 0.3,
        train_pairs: int = 4000,
        validation_pairs: int = 500,
        test_pairs: int = 1000,
    ) -> None:
        super().__init__(tasks=tasks)
        check(self.name, "noise", noise, ge=0)
        check(self.name, "train_pairs", train_pairs, integer=True, ge=1)
        check(self.name, "validation_pairs", validation_pairs, integer=True, ge=1)
        check(self.name, "test_pairs", test_pairs, integer=True, ge=1)
        self.noise = noise
        self.pairs: dict[Split, int] = {"train": train_pairs, "validation": validation_pairs, "test": test_pairs}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy of each digit, mean squared error of the reconstruction."""
        return tuple(
            Metric("mse", task, higher_is_better=False)
            if task == "reconstruction"
            else Metric("accuracy", task, higher_is_better=True)
            for task in self.tasks
        )

    def data(self, seed: int, training: Training) -> Data:
        """Pairs and noise, drawn once per seed and split: every epoch sees the same noisy canvases."""
        images, classes = digits()
        splits: dict[Split, Batch] = {}
        for split, members in split_digits(seed).items():
            draw = generator(seed, self.name, "pairs", split)
            pairs = members[torch.randint(len(members), (self.pairs[split], 2), generator=draw)]
            clean = overlay(images[pairs[:, 0]], images[pairs[:, 1]])
            noise = torch.randn(clean.shape, generator=generator(seed, self.name, "noise", split))
            splits[split] = {
                "noisy": clean + self.noise * noise,
                "clean": clean,
                "left": classes[pairs[:, 0]],
                "right": classes[pairs[:, 1]],
            }
        return InMemory(self.name, seed, splits, training.batch_size)

    def model(self, seed: int) -> nn.Module:
        """A network with all three heads, whatever tasks are chosen."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, self.name, "parameters"))
            return Network()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """``(K,)`` mean loss per task, with graph."""
        return torch.stack([_loss(task, answer, batch) for task, answer in self._answers(model, batch).items()])

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Mean losses ``(K,)`` and metrics over the batches."""
        losses, scores, rows = [], [], []
        for batch in batches:
            answers = self._answers(model, batch)
            losses.append(torch.stack([_loss(task, answer, batch) for task, answer in answers.items()]))
            scores.append(torch.stack([_score(task, answer, batch) for task, answer in answers.items()]))
            rows.append(count(batch))
        keys = [metric.key for metric in self.metrics]
        return Evaluation(mean_over_rows(losses, rows), dict(zip(keys, mean_over_rows(scores, rows).tolist(), strict=True)))

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The linear layer before the heads."""
        assert isinstance(model, Network)
        return model.shared

    def _answers(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Network)
        features = model(batch["noisy"])
        return {task: model.answer(task, features) for task in self.tasks}

    def facts(self) -> dict[str, Any]:
        """The library that bundles the images, and the hash of their pixels."""
        pixels = digits()[0].numpy().tobytes()
        return {"scikit-learn": metadata.version("scikit-learn"), "digits_sha256": hashlib.sha256(pixels).hexdigest()}


def _loss(task: str, answer: Tensor, batch: Batch) -> Tensor:
    if task == "reconstruction":
        return functional.mse_loss(answer, batch["clean"])
    return functional.cross_entropy(answer, batch[task])


def _score(task: str, answer: Tensor, batch: Batch) -> Tensor:
    if task == "reconstruction":
        return functional.mse_loss(answer, batch["clean"])
    return (answer.argmax(-1) == batch[task]).float().mean()
