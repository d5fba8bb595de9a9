"""Ten regressions onto related functions whose scales span a factor of a hundred: the toy problem of GradNorm.

Source    Chen, Badrinarayanan, Lee, Rabinovich, GradNorm, ICML 2018, arXiv:1711.02257v4, section 4.
Symbols   f_i(x) = sigma_i tanh(s (B + e_i) x), x in R^250, f_i in R^100, i = 1..10; B is shared, e_i is task i's own;
          L_i mean squared error of task i over its outputs; L_i(0) that of the initial model. All without unit.
Reading   the paper's N(0, 10) and N(0, 3.5) are taken as mean and standard deviation, as public re-implementations do.
          With s below only their ratio matters: e_i holds 11 % of the variance of B + e_i (as variances it would be 26 %).
Departs   (1) s: the paper gives neither s nor the distribution of x. Here x is standard normal and s makes the argument of
          tanh have standard deviation ``gain``. With s = 1 it would be 168, tanh a sign, and 250 x 100 signs are not
          learned by so narrow a network: relative losses would stay near 1. (2) sigma_i: the paper names 1 and 100 for two
          tasks; the ten are spread evenly in the logarithm between them. (3) Finite splits, so that there is a validation.

The metric is the paper's, the sum over tasks of L_i(t) / L_i(0) on test data, and each summand. There is something to
gain: with the default budget and seed 0, equal weights end at 4.7, fixed weights 1 / sigma_i^2 at 2.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch, Data, Evaluation, Metric, Problem, Split, Training
from benchmarks.problems.in_memory import InMemory, count, mean_over_rows
from benchmarks.seeds import derive, generator
from weighting._checks import check

NUM_TASKS, INPUTS, OUTPUTS, WIDTH, DEPTH = 10, 250, 100, 100, 4
SHARED_STD, OWN_STD = 10.0, 3.5
"""Standard deviations of the elements of B and of e_i."""
LARGEST_SPLIT = 50_000
"""Examples a split may have: its targets then take 200 MB."""


class Network(nn.Module):
    """Four hidden ReLU layers of 100 that all tasks share; ten linear heads, laid out as one for speed."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for depth in range(DEPTH):
            layers += [nn.Linear(INPUTS if depth == 0 else WIDTH, WIDTH), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.Linear(WIDTH, NUM_TASKS * OUTPUTS)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs ``(N, 250)`` to the answers of all ten heads ``(N, 10, 100)``."""
        return torch.unflatten(self.heads(self.trunk(inputs)), 1, (NUM_TASKS, OUTPUTS))


class GradNormToy(Problem):
    """Ten regressions with shared and own parts, in scales from 1 to ``spread``.

    gain      standard deviation of the argument of tanh, > 0: near 0 the functions are linear, far above 1 they are signs
    spread    largest over smallest sigma, >= 1
    train_examples, validation_examples, test_examples   sizes of the splits, 1 to 50,000

    Raises ValueError on unknown tasks or an option out of its range.
    """

    name = "gradnorm_toy"
    all_tasks = tuple(f"f{task}" for task in range(1, NUM_TASKS + 1))
    training = Training(steps=5000, batch_size=128, lr=3e-3, log_every=25, evaluate_every=125)
    splits = "Inputs drawn from three streams of the seed; the functions, drawn from a fourth, are the same in all splits."
    small = {"train_examples": 100, "validation_examples": 30, "test_examples": 40}

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        gain: float = 0.5,
        spread: float = 100.0,
        train_examples: int = 8000,
        validation_examples: int = 1000,
        test_examples: int = 1000,
    ) -> None:
        super().__init__(tasks=tasks)
        check(self.name, "gain", gain, gt=0)
        check(self.name, "spread", spread, ge=1)
        self.sizes: dict[Split, int] = {"train": train_examples, "validation": validation_examples, "test": test_examples}
        for split, size in self.sizes.items():
            check(self.name, f"{split}_examples", size, integer=True, ge=1, lt=LARGEST_SPLIT + 1)
        self.gain, self.spread = gain, spread
        self._columns = [self.all_tasks.index(task) for task in self.tasks]
        self._in_order = self.tasks == self.all_tasks

    @property
    def sigmas(self) -> Tensor:
        """``(10,)`` scales of the ten functions, from 1 to ``spread`` in equal ratios, float64."""
        exponents = torch.linspace(0.0, 1.0, NUM_TASKS, dtype=torch.float64)
        return torch.tensor(float(self.spread), dtype=torch.float64) ** exponents

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """L_i(t) / L_i(0) of each task and, a second view of the same numbers, their sum."""
        ratios = tuple(Metric("relative_loss", task, higher_is_better=False) for task in self.tasks)
        return (*ratios, Metric("summed_relative_loss", None, higher_is_better=False, primary=False))

    def matrices(self, seed: int) -> tuple[Tensor, Tensor]:
        """B ``(100, 250)`` and all e_i ``(10, 100, 250)`` of a seed, float64."""
        draw = generator(seed, self.name, "functions")
        shared = SHARED_STD * torch.randn(OUTPUTS, INPUTS, generator=draw, dtype=torch.float64)
        own = OWN_STD * torch.randn(NUM_TASKS, OUTPUTS, INPUTS, generator=draw, dtype=torch.float64)
        return shared, own

    def targets(self, inputs: Tensor, shared: Tensor, own: Tensor) -> Tensor:
        """The ten functions ``(N, 10, 100)`` of inputs ``(N, 250)``, for B and e_i as ``matrices`` gives them."""
        scale = self.gain / (INPUTS * (SHARED_STD**2 + OWN_STD**2)) ** 0.5
        mixed = inputs @ (scale * (shared + own)).reshape(NUM_TASKS * OUTPUTS, INPUTS).T
        return torch.unflatten(torch.tanh(mixed), 1, (NUM_TASKS, OUTPUTS)) * self.sigmas.unsqueeze(-1)

    def data(self, seed: int, training: Training) -> Data:
        """Draw the functions and all splits; each example carries its ten losses under the initial model."""
        shared, own = self.matrices(seed)
        # In float64 and then rounded: the bytes do not depend on how many threads add up a dot product.
        initial_model = self.model(seed).double()
        splits: dict[Split, Batch] = {}
        for split, size in self.sizes.items():
            draw = generator(seed, self.name, "inputs", split)
            inputs = torch.randn(size, INPUTS, generator=draw)
            targets = self.targets(inputs.double(), shared, own)
            with torch.no_grad():
                initial = (initial_model(inputs.double()) - targets).square().mean(-1)
            splits[split] = {"inputs": inputs, "targets": targets.float(), "initial": initial.float()}
        return InMemory(self.name, seed, splits, training.batch_size)

    def model(self, seed: int) -> nn.Module:
        """A network with all ten heads, whatever tasks are chosen."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, self.name, "parameters"))
            return Network()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """``(K,)`` mean squared error per task over examples and outputs, with graph."""
        answers, targets = model(batch["inputs"]), batch["targets"]
        if not self._in_order:
            answers, targets = answers[:, self._columns], targets[:, self._columns]
        losses: Tensor = (answers - targets).square().mean((0, 2))
        return losses

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Mean losses ``(K,)`` over the batches, and each divided by its value under the initial model."""
        losses, initial, rows = [], [], []
        for batch in batches:
            losses.append(self.losses(model, batch))
            initial.append(batch["initial"][:, self._columns].double().mean(0))
            rows.append(count(batch))
        mean = mean_over_rows(losses, rows)
        ratios = mean / mean_over_rows(initial, rows)
        metrics = {f"{task}/relative_loss": float(ratio) for task, ratio in zip(self.tasks, ratios, strict=True)}
        return Evaluation(mean, metrics | {"summed_relative_loss": float(ratios.sum())})

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The last hidden layer."""
        assert isinstance(model, Network)
        return model.trunk[-2]
