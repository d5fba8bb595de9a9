"""What every listed problem must do: the contract of ``benchmarks.testing``, and what concerns the list itself."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from all_problems import bytes_of_all
from places import ROOT
from torch import Tensor, nn

from benchmarks.catalog import problem_class
from benchmarks.contract import Problem
from benchmarks.harness.shared_norms import SharedLayerNorms
from benchmarks.problems import LISTED
from benchmarks.testing.case import Case, different
from benchmarks.testing.data import bytes_are_the_same_in_another_process
from benchmarks.testing.model import norms_one_by_one, uneven
from benchmarks.testing.report import CHECKS
from weighting import gramian
from weighting.gradients import task_gradients
from weighting.testing.elsewhere import elsewhere
from weighting.testing.expectations import CannotTellError

pytestmark = pytest.mark.usefixtures("own_cache")

ELSEWHERE = bytes_are_the_same_in_another_process
WITHOUT_DATA = {"famo_toy"}
"""Problems that are the same for every seed."""

WITHOUT_DRAWN_PARAMETERS = {"famo_toy", "finetune_lm"}
"""Problems whose model begins the same for every seed: here, a pretrained one without adapters."""

every_problem = pytest.mark.parametrize("name", LISTED)
every_problem_with_rows = pytest.mark.parametrize("name", [n for n in LISTED if problem_class(n).rows_belong_to_tasks])


@pytest.fixture(scope="module")
def shelf() -> dict[str, Case]:
    """What has been built, by name: checks leave it as it was."""
    return {}


@pytest.fixture
def case(name: str, shelf: dict[str, Case]) -> Case:
    return shelf.setdefault(name, Case(problem_class(name)))


LEFT_OUT = {
    ("splits_share_no_rows", "famo_toy"): "batches have no rows",
    ("splits_share_no_rows", "code_lm"): "batches are cut otherwise than by rows",
    ("counts_are_sane", "famo_toy"): "counts() says nothing",
    ("counts_are_sane", "gradnorm_toy"): "counts() says nothing",
    ("counts_are_sane", "multidigits"): "counts() says nothing",
}
"""What there is nothing to look at."""


@pytest.mark.parametrize("check", [name for name, check in CHECKS.items() if check is not ELSEWHERE])
@every_problem
def test_contract(name: str, case: Case, check: str) -> None:
    if (check, name) in LEFT_OUT:
        with pytest.raises(CannotTellError) as told:
            CHECKS[check](case)
        assert str(told.value).startswith(LEFT_OUT[check, name])
    else:
        CHECKS[check](case)


@pytest.mark.slow
def test_bytes_are_the_same_in_another_process(tmp_path: Path) -> None:
    """Of all problems in one process, as starting it takes longer than all that it does."""
    here, there = bytes_of_all(Problem), elsewhere(bytes_of_all, Problem, environment={"XDG_CACHE_HOME": str(tmp_path)})
    assert set(here) == set(LISTED)
    assert there == here


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
    assert problem_class(name).name == name


# ---- data ------------------------------------------------------------------------------------------------------------


@every_problem
def test_another_seed_gives_other_data_and_another_model(name: str, case: Case) -> None:
    other = Case(problem_class(name), seed=1)
    parameters = (dict(each.model.named_parameters()) for each in (other, case.replace()))
    same = [different(*parameters) is None, different(other.data.train_batch(0), case.data.train_batch(0)) is None]
    assert same == [name in WITHOUT_DRAWN_PARAMETERS, name in WITHOUT_DATA]


@every_problem
def test_global_random_numbers_are_left_alone(name: str) -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = Case(problem_class(name))
    one.problem.losses(one.model, one.data.train_batch(0))
    assert torch.equal(torch.random.get_rng_state(), state)


# ---- losses and evaluation -------------------------------------------------------------------------------------------


@every_problem
def test_weights_of_one_are_the_plain_sum(name: str, case: Case) -> None:
    """The same gradients to the last bit."""
    parameters = [value for value in case.model.parameters() if value.requires_grad]

    def gradients(weighted: bool) -> list[Tensor]:
        losses = case.problem.losses(case.model, case.data.train_batch(0))
        total = (torch.ones_like(losses) * losses).sum() if weighted else losses.sum()
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        return [torch.zeros(()) if gradient is None else gradient for gradient in found]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(one, other)


# ---- gradients at the shared layer -----------------------------------------------------------------------------------


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


@every_problem_with_rows
def test_norms_by_rows_need_no_further_pass(name: str) -> None:
    one = Case(problem_class(name))
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
    one = Case(problem_class(name))
    norms = SharedLayerNorms(one.problem, one.model)
    norms.arm()
    losses = one.problem.losses(one.model, one.data.train_batch(0))
    weights = uneven(losses.detach())
    weights[0] = 0
    expected = norms_one_by_one(losses, norms.parameters)
    found = norms_of_step(norms, losses, weights)
    assert norms.extra_backwards == one.problem.num_tasks
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, check_dtype=False)


@every_problem_with_rows
def test_norms_do_not_see_a_forward_pass_that_nobody_announced(name: str) -> None:
    """An evaluation between the steps leaves nothing behind."""
    one = Case(problem_class(name))
    norms = SharedLayerNorms(one.problem, one.model)
    losses = one.problem.losses(one.model, one.data.train_batch(0))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="found it unused"):
        norms.after_backward()


@every_problem
def test_gramian_holds_the_inner_products(name: str, case: Case) -> None:
    """Symmetric, with the squared norms on its diagonal; a sum of gradients has the sum of all products as its square."""
    problem = case.problem
    parameters = layer_parameters(problem, case.model)
    losses = problem.losses(case.model, case.data.train_batch(0))
    found = gramian(losses, parameters, replica_dims=len(problem.batch_shape)).float()
    assert found.shape == (*problem.batch_shape, problem.num_tasks, problem.num_tasks)
    torch.testing.assert_close(found, found.mT, rtol=1e-4, atol=1e-6)
    norms = norms_one_by_one(losses, parameters)
    torch.testing.assert_close(found.diagonal(dim1=-2, dim2=-1), norms.square(), rtol=1e-4, atol=1e-7)
    summed = torch.autograd.grad(losses.sum(), parameters)
    square = sum(float(gradient.double().square().sum()) for gradient in summed)
    assert float(found.double().sum()) == pytest.approx(square, rel=1e-3)
