"""Problems with one planted fault each: the check that must reject it, and words that its message must hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from tiny_problem import SCALES, SIZES, Network, RowsTiny, SlowData, Tiny
from torch import Tensor, nn

from benchmarks.contract import Batch, Data, Evaluation, Metric, Split, Training
from benchmarks.seeds import generator


class Broken(Tiny):
    """Breaks one check and keeps the others."""

    breaks: ClassVar[str]
    says: ClassVar[tuple[str, ...]]


class NeedsAnOption(Broken):
    """An option without a default."""

    name, breaks, says = "needs_an_option", "names_and_options_are_complete", ("'width'", "default")
    small = {"width": 3}

    def __init__(self, *, tasks: Sequence[str] | None = None, width: int) -> None:
        super().__init__(tasks=tasks)


class TakesAnyTask(Broken):
    """A task twice is taken once."""

    name, breaks, says = "takes_any_task", "wrong_tasks_are_refused_in_one_line", ("expected ValueError",)

    def __init__(self, *, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks=None if tasks is None else tuple(dict.fromkeys(tasks)))


class ForgetsAMetric(Broken):
    """One task is judged by nothing."""

    name, breaks, says = "forgets_a_metric", "metrics_cover_every_task", ("primary metrics of", "small")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return super().metrics[1:]

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        found = super().evaluate(model, batches) if len(self.tasks) > 1 else Evaluation(torch.zeros(1), {})
        return Evaluation(found.losses, {metric.key: 1.0 for metric in self.metrics})


class SaysATensor(Broken):
    """Facts that are no JSON."""

    name, breaks, says = "says_a_tensor", "facts_and_files_are_plain", ("Tensor",)

    def facts(self) -> dict[str, Any]:
        return {"mean": torch.zeros(1)}


class _Changed(SlowData):
    """The tiny data, in other hands."""

    calls = 0


def _with(problem: Tiny, seed: int, training: Training, kind: type[_Changed]) -> Data:
    whole = Tiny.data(problem, seed, training)
    assert isinstance(whole, SlowData)
    return kind(problem.name, seed, whole._splits, training.batch_size)


class _InTurn(_Changed):
    def train_batch(self, step: int) -> Batch:
        self.calls += 1
        return super().train_batch(self.calls)


class GoesOnByItself(Broken):
    """A loader that goes on with every call, whatever step is asked for."""

    name, breaks, says = "goes_on_by_itself", "training_batches_depend_on_seed_and_step_alone", ("train_batch",)

    def data(self, seed: int, training: Training) -> Data:
        return _with(self, seed, training, _InTurn)


class _Larger(_Changed):
    def validation_batch(self, index: int) -> Batch:
        return {name: torch.cat([value, value]) for name, value in super().validation_batch(index).items()}


class ValidatesOnMore(Broken):
    """Validation batches of another size."""

    name, breaks, says = "validates_on_more", "validation_batches_are_like_training_batches", ("(8, ", "(16, ")

    def data(self, seed: int, training: Training) -> Data:
        return _with(self, seed, training, _Larger)


class _Shuffled(_Changed):
    def batches(self, split: Split) -> Iterator[Batch]:
        for batch in super().batches(split):
            self.calls += 1
            yield {name: value.roll(self.calls, 0) for name, value in batch.items()}


class ShufflesItsSplits(Broken):
    """An evaluation in another order each time."""

    name, breaks, says = "shuffles_its_splits", "splits_are_read_in_a_fixed_order", ("same batch 0 of train",)

    def data(self, seed: int, training: Training) -> Data:
        return _with(self, seed, training, _Shuffled)


class TestsOnTraining(Broken):
    """The test split is cut from the training split."""

    name, breaks, says = "tests_on_training", "splits_share_no_rows", ("12 of 12 rows of test also in train",)

    def data(self, seed: int, training: Training) -> Data:
        whole = super().data(seed, training)
        assert isinstance(whole, SlowData)
        parts = {**whole._splits, "test": {name: value[:12] for name, value in whole._splits["train"].items()}}
        return SlowData(self.name, seed, parts, training.batch_size)


class CountsWrong(Broken):
    """Fewer than no examples."""

    name, breaks, says = "counts_wrong", "counts_are_sane", ("counts of at least 0",)

    def counts(self, batch: Batch) -> Tensor:
        return torch.full((self.num_tasks,), -1.0)

    def micro_batches(self, batch: Batch, number: int) -> Sequence[Batch]:
        if number > 1:
            raise ValueError("cannot be cut")
        return [batch]


class SeedsWithAHash(Broken):
    """Python's hash of a string is another one in every process."""

    name, breaks, says = "seeds_with_a_hash", "bytes_are_the_same_in_another_process", ("the same fingerprint",)

    def data(self, seed: int, training: Training) -> Data:
        return super().data(seed + hash(self.name) % 1000, training)


class InDouble(Broken):
    """Parameters in float64."""

    name, breaks, says = "in_double", "trained_parameters_are_float32", ("float64",)

    def model(self, seed: int) -> nn.Module:
        return _Wide().double()

    def _errors(self, model: Network, batch: Batch) -> Tensor:
        return super()._errors(model, {name: value.double() for name, value in batch.items()})


class _Wide(Network):
    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            super().__init__()


class DrawsWithoutASeed(Broken):
    """The initial parameters come from wherever the global generator is."""

    name, breaks, says = "draws_without_a_seed", "initial_parameters_depend_on_the_seed_alone", ("model(seed) draws",)

    def model(self, seed: int) -> nn.Module:
        return Network()


class LosesItsGraph(Broken):
    """Detached losses train nothing."""

    name, breaks, says = "loses_its_graph", "losses_have_the_right_shape_and_a_graph", ("losses with a graph",)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().losses(model, batch).detach()


class ChangesTheModel(Broken):
    """Every look at the losses changes a parameter."""

    name, breaks, says = "changes_the_model", "losses_are_a_pure_function", ("found",)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            next(model.parameters()).mul_(1.01)
        return super().losses(model, batch)


class SumsInsteadOfMeans(Broken):
    """Half of a batch has half of the loss."""

    name, breaks, says = "sums_instead_of_means", "batches_are_cut_into_micro_batches", ("2 micro-batches together",)

    def _errors(self, model: Network, batch: Batch) -> Tensor:
        return super()._errors(model, batch) * len(batch["x"])


class ForgetsAKey(Broken):
    """A metric that evaluate does not give."""

    name, breaks, says = "forgets_a_key", "evaluation_gives_every_metric", ("small/mse", "large/mse")

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        found = super().evaluate(model, batches)
        last = list(found.metrics)[-1]
        kept = found.metrics if self.num_tasks < 3 else {key: value for key, value in found.metrics.items() if key != last}
        return Evaluation(found.losses, kept)


class SharesAStranger(Broken):
    """A layer that is no part of the model."""

    name, breaks, says = "shares_a_stranger", "shared_layer_is_a_trained_part_of_the_model", ("the same modules each time",)

    def shared_layer(self, model: nn.Module) -> nn.Module:
        return nn.Linear(4, 3)


class MixesItsRows(Broken, RowsTiny):
    """Says that the rows at the shared layer belong to one task each, which they do not."""

    name, breaks, says = "mixes_its_rows", "norms_of_a_step_are_those_of_the_gradients", ("norms of gradients",)

    def _errors(self, model: Network, batch: Batch) -> Tensor:
        columns = list(SCALES)
        hidden = model(batch["x"].repeat(self.num_tasks, 1)).chunk(self.num_tasks)
        turned = [*hidden[1:], hidden[0]]
        errors = [
            (model.heads[task](part)[:, 0] - batch["y"][:, columns.index(task)]).square().mean()
            for task, part in zip(self.tasks, turned, strict=True)
        ]
        return torch.stack(errors)


class GivesTheRowsOfAnother(Broken):
    """Rows of a task that leave some of its own out."""

    name, breaks, says = (
        "gives_the_rows_of_another",
        "gradients_of_tasks_are_where_the_problem_says",
        ("rows of single tasks",),
    )

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().losses(model, {name: batch[name] for name in ("x", "y")})
        return losses if "task" not in batch else losses * torch.eye(self.num_tasks)[int(batch["task"])]

    def task_rows(self, batch: Batch) -> Sequence[Batch]:
        part = {name: tensor[1:] for name, tensor in batch.items()}
        return [{**part, "task": torch.tensor(task)} for task in range(self.num_tasks)]


class NamesAStranger(Broken):
    """Shared parameters that are no part of the model."""

    name, breaks, says = "names_a_stranger", "gradients_of_tasks_are_where_the_problem_says", ("shared_parameters",)

    def shared_parameters(self, model: nn.Module) -> Sequence[Tensor]:
        return list(nn.Linear(4, 3).parameters())


class ProbesAVector(Broken):
    """A probe of three numbers."""

    name, breaks, says = "probes_a_vector", "probes_are_one_number_a_replica", ("shape ()", "(3,)")

    def probe(self, model: nn.Module) -> dict[str, Tensor]:
        assert isinstance(model, Network)
        return {"bias": model.shared.bias.detach()}


class HoldsItsTasksOnly(Broken):
    """The data of a single-task run hold only that task."""

    name, breaks = "holds_its_tasks_only", "a_task_alone_has_the_same_data"
    says = ("data(seed, training) must not depend on self.tasks", "tasks=('small',)")

    def data(self, seed: int, training: Training) -> Data:
        whole = super().data(seed, training)
        assert isinstance(whole, SlowData)
        columns = [list(SCALES).index(task) for task in self.tasks]
        parts = {split: {"x": part["x"], "y": part["y"][:, columns]} for split, part in whole._splits.items()}
        return SlowData(self.name, seed, parts, training.batch_size)

    def _errors(self, model: Network, batch: Batch) -> Tensor:
        hidden = model(batch["x"])
        errors = [(model.heads[t](hidden)[:, 0] - batch["y"][:, at]).square().mean() for at, t in enumerate(self.tasks)]
        return torch.stack(errors)


class DrawsByItsTasks(Broken):
    """The order in which a task's data are drawn hangs on how many tasks there are."""

    name, breaks, says = "draws_by_its_tasks", "a_task_alone_has_the_same_data", ("must not depend on self.tasks",)

    def data(self, seed: int, training: Training) -> Data:
        draw = generator(seed, self.name, self.num_tasks)
        parts: dict[Split, Batch] = {
            split: {"x": torch.randn(size, 4, generator=draw), "y": torch.randn(size, 3, generator=draw)}
            for split, size in SIZES.items()
        }
        return SlowData(self.name, seed, parts, training.batch_size)


BROKEN: tuple[type[Broken], ...] = (
    NeedsAnOption,
    TakesAnyTask,
    ForgetsAMetric,
    SaysATensor,
    GoesOnByItself,
    ValidatesOnMore,
    ShufflesItsSplits,
    TestsOnTraining,
    CountsWrong,
    SeedsWithAHash,
    InDouble,
    DrawsWithoutASeed,
    LosesItsGraph,
    ChangesTheModel,
    SumsInsteadOfMeans,
    ForgetsAKey,
    SharesAStranger,
    MixesItsRows,
    GivesTheRowsOfAnother,
    NamesAStranger,
    ProbesAVector,
    HoldsItsTasksOnly,
    DrawsByItsTasks,
)
