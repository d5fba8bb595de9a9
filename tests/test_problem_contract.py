"""What every listed problem must do. A new problem is covered by being listed; SMALL may make it quick."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.base import Batch, Data, Evaluation, Problem, Split, Training
from benchmarks.catalog import problem_class
from benchmarks.harness.gradients import JacobianRows, SharedLayerNorms
from benchmarks.problems import LISTED
from weighting.gradients import task_gradients

ROOT = Path(__file__).resolve().parent.parent

SMALL: dict[str, dict[str, Any]] = {
    "gradnorm_toy": {"train_examples": 100, "validation_examples": 30, "test_examples": 40},
    "multidigits": {"train_pairs": 100, "validation_pairs": 30, "test_pairs": 40},
    "code_lm": {
        "train_bytes": {"python": 40_000, "cpp": 40_000, "cuda": 30_000, "stubs": 30_000, "yaml": 12_000, "english": 12_000},
        "vocab_size": 300,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_size": 24,
        "sequence_length": 16,
        "validation_sequences": 5,
        "test_sequences": 7,
    },
}
"""Options that make a problem small."""

WITHOUT_DATA = {"famo_toy"}
"""Problems that are the same for every seed."""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

every_problem = pytest.mark.parametrize("name", LISTED)
every_problem_with_rows = pytest.mark.parametrize("name", [n for n in LISTED if problem_class(n).rows_belong_to_tasks])


@dataclass(frozen=True)
class Built:
    problem: Problem
    training: Training
    data: Data
    model: nn.Module


def create(name: str, **options: Any) -> Problem:
    return problem_class(name)(**SMALL.get(name, {}), **options)


def training_of(problem: Problem) -> Training:
    return problem.training.model_copy(update={"batch_size": min(problem.training.batch_size, 8)})


def build(name: str, seed: int = 0, **options: Any) -> Built:
    problem = create(name, **options)
    training = training_of(problem)
    return Built(problem, training, problem.data(seed, training), problem.model(seed))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def shelf() -> dict[str, Built]:
    """What has been built, by name: reading it changes nothing."""
    return {}


@pytest.fixture
def built(name: str, shelf: dict[str, Built], own_cache: None) -> Built:
    if name not in shelf:
        shelf[name] = build(name)
    return shelf[name]


def equal(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def hash_of(tensors: Batch) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def evaluated(built: Built, split: Split) -> Evaluation:
    built.model.eval()
    with torch.no_grad():
        result = built.problem.evaluate(built.model, built.data.batches(split))
    built.model.train()
    return result


def subsets(problem: Problem) -> list[tuple[str, ...]]:
    """Single tasks (first and last), and two tasks in reverse."""
    tasks = problem.tasks
    return [tasks[:1], tasks[-1:], (tasks[-1], tasks[0])]


# ---- names -----------------------------------------------------------------------------------------------------------


def test_every_problem_file_is_listed() -> None:
    found = set()
    for path in (ROOT / "benchmarks" / "problems").glob("*.py"):
        module = importlib.import_module(f"benchmarks.problems.{path.stem}")
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, Problem) and kind.__module__ == module.__name__:
                found.add(kind)
    assert found == {problem_class(name) for name in LISTED}


@every_problem
def test_listed_under_its_own_name(name: str) -> None:
    kind = problem_class(name)
    assert kind.name == name
    assert kind.splits
    assert set(kind.default_tasks or ()) <= set(kind.all_tasks)
    assert len(set(kind.all_tasks)) == len(kind.all_tasks)


@every_problem
def test_metrics_cover_every_task(name: str, built: Built) -> None:
    metrics = built.problem.metrics
    keys = [metric.key for metric in metrics]
    assert len(set(keys)) == len(keys)
    assert {metric.task for metric in metrics if metric.primary} == set(built.problem.tasks)
    assert {metric.task for metric in metrics} <= {*built.problem.tasks, None}
    for tasks in subsets(built.problem):
        fewer = create(name, tasks=tasks).metrics
        assert {metric.task for metric in fewer if metric.primary} == set(tasks)
        assert {metric for metric in fewer if metric.task} <= set(metrics)


@every_problem
@pytest.mark.parametrize(
    ("tasks", "words"),
    [(["no such task"], "found 'no such task'"), ([0, 0], "expected every task once"), ([], "at least one task")],
    ids=["unknown", "twice", "none"],
)
def test_wrong_tasks_are_refused(name: str, tasks: list[Any], words: str) -> None:
    known = problem_class(name).all_tasks
    chosen = [task if isinstance(task, str) else known[task] for task in tasks]
    with pytest.raises(ValueError, match=rf"^{name}: expected ") as error:
        create(name, tasks=chosen)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# ---- data ------------------------------------------------------------------------------------------------------------


@every_problem
def test_train_batch_is_a_pure_function_of_the_step(name: str, built: Built) -> None:
    data, steps = built.data, built.data.steps_per_epoch
    far = 3 * steps + 1
    late, early = data.train_batch(far), data.train_batch(0)
    assert equal(data.train_batch(far), late)
    assert equal(data.train_batch(0), early)
    again = built.problem.data(0, built.training)
    assert equal(again.train_batch(far), late)
    assert again.fingerprint == data.fingerprint
    if name not in WITHOUT_DATA:
        assert not equal(late, early)


@every_problem
def test_validation_batches_are_like_training_batches_and_wrap_around(name: str, built: Built) -> None:
    train = built.data.train_batch(0)
    assert built.data.num_validation_batches >= 1
    for index in (0, built.data.num_validation_batches, 1000 * built.data.num_validation_batches + 1):
        batch = built.data.validation_batch(index)
        assert equal(batch, built.data.validation_batch(index))
        assert {key: value.shape for key, value in batch.items()} == {key: value.shape for key, value in train.items()}


@every_problem
def test_splits_are_read_in_a_fixed_order(name: str, built: Built) -> None:
    for split in SPLITS:
        once, again = list(built.data.batches(split)), list(built.data.batches(split))
        assert once
        assert len(once) == len(again)
        assert all(equal(one, other) for one, other in zip(once, again, strict=True))


@every_problem
def test_another_seed_gives_other_data_and_another_model(name: str, built: Built) -> None:
    other = build(name, seed=1)
    same_model = equal(dict(other.model.named_parameters()), dict(build(name).model.named_parameters()))
    same_batch = equal(other.data.train_batch(0), built.data.train_batch(0))
    assert [same_model, same_batch] == [name in WITHOUT_DATA] * 2


def numbers_of_all() -> dict[str, list[str]]:
    """Problem -> hashes of its data, two batches and its initial parameters."""
    found = {}
    for name in LISTED:
        one = build(name)
        batches = [one.data.train_batch(one.data.steps_per_epoch + 1), one.data.validation_batch(1)]
        parameters = dict(one.model.named_parameters())
        found[name] = [one.data.fingerprint, *(hash_of(tensors) for tensors in (*batches, parameters))]
    return found


def test_same_bytes_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an empty cache of its own, and another seed of Python's hashes."""
    here = numbers_of_all()
    code = """
import json, sys, torch
sys.path[:0] = sys.argv[1:]
torch.set_num_threads(1)
from test_problem_contract import numbers_of_all
print(json.dumps(numbers_of_all()))
"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONHASHSEED", "123")
    command = [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout.splitlines()[-1]) == here


@every_problem
def test_global_random_numbers_are_left_alone(name: str) -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = build(name)
    one.problem.losses(one.model, one.data.train_batch(0))
    assert torch.equal(torch.random.get_rng_state(), state)


@every_problem
def test_facts_are_json(name: str, built: Built) -> None:
    json.dumps(built.problem.facts(), allow_nan=False)


# ---- single tasks are the same problem -------------------------------------------------------------------------------


@every_problem
def test_initial_parameters_do_not_depend_on_the_tasks(name: str, built: Built) -> None:
    whole = dict(build(name).model.named_parameters())
    for tasks in subsets(built.problem):
        assert equal(dict(create(name, tasks=tasks).model(0).named_parameters()), whole)


@every_problem
def test_a_task_alone_has_the_same_losses(name: str, built: Built) -> None:
    """At steps in and after the first epoch, and in validation: same data for the task, same model."""
    problem, model = built.problem, build(name).model
    step = built.data.steps_per_epoch + 1
    whole = [problem.losses(model, batch) for batch in (built.data.train_batch(0), built.data.train_batch(step))]
    whole_validation = evaluated(Built(problem, built.training, built.data, model), "validation")
    for tasks in subsets(problem):
        alone = build(name, tasks=tasks)
        assert alone.problem.tasks == tasks
        places = [problem.tasks.index(task) for task in tasks]
        if len(tasks) == 1:
            assert alone.data.fingerprint == built.data.fingerprint
        for expected, at in zip(whole, (0, step), strict=True):
            found = alone.problem.losses(model, alone.data.train_batch(at))
            torch.testing.assert_close(found, expected[..., places], rtol=1e-5, atol=1e-6)
        validation = evaluated(Built(alone.problem, alone.training, alone.data, model), "validation")
        torch.testing.assert_close(validation.losses, whole_validation.losses[..., places], rtol=1e-5, atol=1e-6)
        for metric in alone.problem.metrics:
            if metric.task:
                expected_metric = whole_validation.metrics[metric.key]
                assert validation.metrics[metric.key] == pytest.approx(expected_metric, rel=1e-5, abs=1e-6)


# ---- losses and evaluation -------------------------------------------------------------------------------------------


@every_problem
def test_losses_have_the_right_shape_and_a_graph(name: str, built: Built) -> None:
    problem, model = built.problem, built.model
    for step in range(3):
        batch = built.data.train_batch(step)
        losses = problem.losses(model, batch)
        assert losses.shape == (*problem.batch_shape, problem.num_tasks)
        assert losses.isfinite().all()
        present = problem.counts(batch)
        assert present is None or present.shape == losses.shape
    parameters = layer_parameters(problem, model)
    for gradients in task_gradients(losses, parameters):
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        assert flat.isfinite().all()
        assert (flat != 0).any()


@every_problem
def test_losses_are_a_pure_function(name: str, built: Built) -> None:
    before = {key: value.clone() for key, value in built.model.state_dict().items()}
    batch = built.data.train_batch(0)
    kept = {key: value.clone() for key, value in batch.items()}
    assert torch.equal(built.problem.losses(built.model, batch), built.problem.losses(built.model, batch))
    assert equal(built.model.state_dict(), before)
    assert equal(batch, kept)


@every_problem
def test_weights_of_one_are_the_plain_sum(name: str, built: Built) -> None:
    """The same gradients to the last bit."""
    parameters = [value for value in built.model.parameters() if value.requires_grad]

    def gradients(weighted: bool) -> list[Tensor]:
        losses = built.problem.losses(built.model, built.data.train_batch(0))
        total = (torch.ones_like(losses) * losses).sum() if weighted else losses.sum()
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        return [torch.zeros(()) if gradient is None else gradient for gradient in found]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("split", SPLITS)
@every_problem
def test_evaluation_gives_every_metric(name: str, built: Built, split: Split) -> None:
    result = evaluated(built, split)
    assert list(result.metrics) == [metric.key for metric in built.problem.metrics]
    assert all(isinstance(value, float) and math.isfinite(value) for value in result.metrics.values())
    assert result.losses.shape == (*built.problem.batch_shape, built.problem.num_tasks)
    assert result.losses.device.type == "cpu"
    assert not result.losses.requires_grad
    again = evaluated(built, split)
    assert again.metrics == result.metrics
    assert torch.equal(again.losses, result.losses)


@every_problem
def test_probes_have_one_number_per_replica(name: str, built: Built) -> None:
    for value in built.problem.probe(built.model).values():
        assert value.shape == built.problem.batch_shape
        assert not value.requires_grad


# ---- gradients at the shared layer -----------------------------------------------------------------------------------


@every_problem
def test_shared_layer_is_part_of_the_model(name: str, built: Built) -> None:
    layer = built.problem.shared_layer(built.model)
    assert isinstance(layer, nn.Module)
    own = list(layer.parameters(recurse=False))
    assert any(parameter.requires_grad for parameter in own)
    assert {id(parameter) for parameter in own} <= {id(parameter) for parameter in built.model.parameters()}
    shape = built.problem.batch_shape
    assert all(tuple(parameter.shape[: len(shape)]) == shape for parameter in own)
    assert built.problem.shared_layer(built.model) is layer


def layer_parameters(problem: Problem, model: nn.Module) -> list[Tensor]:
    layer = problem.shared_layer(model)
    assert isinstance(layer, nn.Module)
    return list(layer.parameters(recurse=False))


def norms_of_step(norms: SharedLayerNorms, losses: Tensor, weights: Tensor) -> Tensor:
    """As the training loop gets them."""
    norms.before_backward(losses, weights, None)
    (weights * losses).sum().backward()  # type: ignore[no-untyped-call]
    norms.after_backward()
    return norms.take(weights)


def norms_one_by_one(problem: Problem, losses: Tensor, parameters: list[Tensor]) -> Tensor:
    """Norms ``(*batch_shape, K)``, each from a gradient of its own."""
    flat = losses.reshape(-1, problem.num_tasks)
    norms = torch.zeros_like(flat)
    for replica in range(len(flat)):
        for task in range(problem.num_tasks):
            found = torch.autograd.grad(flat[replica, task], parameters, retain_graph=True)
            norms[replica, task] = torch.cat([gradient.flatten() for gradient in found]).norm()
    return norms.reshape(losses.shape).detach()


def uneven(losses: Tensor) -> Tensor:
    """Weights far from equal, one of them negative."""
    weights = torch.linspace(0.05, 3.0, losses.numel()).reshape(losses.shape).to(losses)
    weights.view(-1)[-1] *= -1 if losses.shape[-1] > 1 else 1
    return weights


@pytest.mark.parametrize("alone", [False, True], ids=["all tasks", "one task"])
@every_problem
def test_norms_of_a_step_are_those_of_the_gradients(name: str, alone: bool) -> None:
    """The route that the training loop takes, by rows or by partial passes, against one gradient per loss."""
    one = build(name, tasks=problem_class(name).all_tasks[:1]) if alone else build(name)
    norms = SharedLayerNorms(one.problem, one.model)
    for step in range(2):
        norms.arm()
        losses = one.problem.losses(one.model, one.data.train_batch(step))
        expected = norms_one_by_one(one.problem, losses, norms.parameters)
        weights = uneven(losses.detach())
        found = norms_of_step(norms, losses, weights)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@every_problem_with_rows
def test_norms_by_rows_need_no_further_pass(name: str) -> None:
    one = build(name)
    norms = SharedLayerNorms(one.problem, one.model)
    assert norms.by_rows
    norms.arm()
    losses = one.problem.losses(one.model, one.data.train_batch(0))
    weights = uneven(losses.detach())
    by_rows = norms_of_step(norms, losses, weights)
    assert norms.extra_backwards == 0
    losses = one.problem.losses(one.model, one.data.train_batch(0))
    rows = [torch.cat([gradient.flatten() for gradient in task]) for task in task_gradients(losses, norms.parameters)]
    torch.testing.assert_close(by_rows, torch.stack(rows).norm(dim=-1), rtol=1e-5, atol=1e-7)


@every_problem_with_rows
def test_norms_with_a_weight_of_zero_take_the_other_route(name: str) -> None:
    """The backward pass of the total says nothing about a task with weight zero."""
    one = build(name)
    norms = SharedLayerNorms(one.problem, one.model)
    norms.arm()
    losses = one.problem.losses(one.model, one.data.train_batch(0))
    weights = uneven(losses.detach())
    weights[0] = 0
    expected = norms_one_by_one(one.problem, losses, norms.parameters)
    found = norms_of_step(norms, losses, weights)
    assert norms.extra_backwards == one.problem.num_tasks
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@every_problem_with_rows
def test_norms_do_not_see_a_forward_pass_that_nobody_announced(name: str) -> None:
    """An evaluation between the steps leaves nothing behind."""
    one = build(name)
    norms = SharedLayerNorms(one.problem, one.model)
    losses = one.problem.losses(one.model, one.data.train_batch(0))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="found it unused"):
        norms.after_backward()


@every_problem
def test_gramian_holds_the_inner_products(name: str, built: Built) -> None:
    """Symmetric, with the squared norms on its diagonal; a sum of gradients has the sum of all products as its square."""
    problem = built.problem
    parameters = layer_parameters(problem, built.model)
    losses = problem.losses(built.model, built.data.train_batch(0))
    jacobian = JacobianRows(parameters, len(problem.batch_shape))
    jacobian.add(losses)
    rows = jacobian.take()
    found = rows @ rows.mT
    assert found.shape == (*problem.batch_shape, problem.num_tasks, problem.num_tasks)
    torch.testing.assert_close(found, found.mT, rtol=1e-4, atol=1e-6)
    norms = norms_one_by_one(problem, losses, parameters)
    torch.testing.assert_close(found.diagonal(dim1=-2, dim2=-1), norms.square(), rtol=1e-4, atol=1e-7)
    summed = torch.autograd.grad(losses.sum(), parameters)
    square = sum(float(gradient.double().square().sum()) for gradient in summed)
    assert float(found.double().sum()) == pytest.approx(square, rel=1e-3)
