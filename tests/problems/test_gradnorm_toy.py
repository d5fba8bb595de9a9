"""gradnorm_toy: the functions against numpy, the paper's metric by hand, the splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.contract import Batch, Data
from benchmarks.problems.gradnorm_toy import GradNormToy

SIZES: dict[str, Any] = {"train_examples": 300, "validation_examples": 70, "test_examples": 1203}
TRAINING = GradNormToy.training.model_copy(update={"batch_size": 64})


@pytest.fixture(scope="module")
def problem() -> GradNormToy:
    return GradNormToy(**SIZES)


@pytest.fixture(scope="module")
def data(problem: GradNormToy) -> Data:
    return problem.data(0, TRAINING)


def test_targets_are_the_printed_formula(problem: GradNormToy, data: Data) -> None:
    """f_i(x) = sigma_i tanh(s (B + e_i) x) with s = 0.5 / sqrt(250 (100 + 12.25)), one example and task at a time."""
    shared, own = (matrix.numpy() for matrix in problem.matrices(0))
    batch = next(data.batches("test"))
    for example in (0, 17):
        x = batch["inputs"][example].double().numpy()
        for task in range(10):
            sigma = 100.0 ** (task / 9)
            expected = sigma * np.tanh(0.5 / np.sqrt(250 * 112.25) * ((shared + own[task]) @ x))
            np.testing.assert_allclose(batch["targets"][example, task].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_scales_span_a_hundred_evenly(problem: GradNormToy) -> None:
    sigmas = problem.sigmas
    assert sigmas[0].item() == 1
    assert sigmas[-1].item() == pytest.approx(100)
    torch.testing.assert_close(sigmas[1:] / sigmas[:-1], torch.full((9,), 100 ** (1 / 9), dtype=torch.float64))


def test_random_matrices_have_their_standard_deviations(problem: GradNormToy) -> None:
    """25,000 and 250,000 draws: the standard error of the deviation is 0.045 and 0.005."""
    shared, own = problem.matrices(0)
    assert shared.std().item() == pytest.approx(10.0, abs=0.2)
    assert own.std().item() == pytest.approx(3.5, abs=0.03)


def test_argument_of_tanh_has_the_asked_for_spread(problem: GradNormToy, data: Data) -> None:
    batch = next(data.batches("test"))
    argument = torch.atanh((batch["targets"] / problem.sigmas.float().unsqueeze(-1)).double())
    assert argument.std().item() == pytest.approx(0.5, rel=0.03)


def test_losses_are_mean_squared_errors(problem: GradNormToy, data: Data) -> None:
    model, batch = problem.model(0), data.train_batch(3)
    losses = problem.losses(model, batch)
    assert losses.shape == (10,)
    assert losses.requires_grad
    error = model(batch["inputs"]).detach().numpy() - batch["targets"].numpy()
    np.testing.assert_allclose(losses.detach().numpy(), [np.mean(error[:, task] ** 2) for task in range(10)], rtol=1e-5)


def test_initial_model_has_relative_loss_one(problem: GradNormToy, data: Data) -> None:
    for split in ("train", "validation", "test"):
        found = problem.evaluate(problem.model(0), data.batches(split))
        assert list(found.metrics) == [metric.key for metric in problem.metrics]
        for task in problem.tasks:
            assert found.metrics[f"{task}/relative_loss"] == pytest.approx(1, abs=1e-5)
        assert found.metrics["summed_relative_loss"] == pytest.approx(10, abs=1e-4)


def test_relative_loss_divides_by_the_initial_loss_of_the_split(problem: GradNormToy, data: Data) -> None:
    """A model that answers zero, on the test split: mean of f_i^2 over the mean loss of the initial model."""
    model = problem.model(0)
    whole = {name: torch.cat([batch[name] for batch in data.batches("test")]) for name in ("inputs", "targets")}
    with torch.no_grad():
        initial = problem.losses(model, whole)
        for parameter in model.parameters():
            parameter.zero_()
        found = problem.evaluate(model, data.batches("test"))
    expected = whole["targets"].square().mean((0, 2)) / initial
    measured = [found.metrics[f"{task}/relative_loss"] for task in problem.tasks]
    np.testing.assert_allclose(measured, expected.numpy(), rtol=1e-5)
    assert found.metrics["summed_relative_loss"] == pytest.approx(sum(measured))


def test_evaluation_averages_exactly_over_unequal_batches(problem: GradNormToy, data: Data) -> None:
    """1203 examples come as 500, 500 and 203; cut into 1, 1000 and 202 the means are the same."""
    batches = list(data.batches("test"))
    assert [len(batch["inputs"]) for batch in batches] == [500, 500, 203]
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    pieces: list[Batch] = [
        {name: tensor[a:b] for name, tensor in whole.items()} for a, b in ((0, 1), (1, 1001), (1001, 1203))
    ]
    model = problem.model(1)
    with torch.no_grad():
        cut, given, plain = (problem.evaluate(model, iter(parts)) for parts in (pieces, batches, [whole]))
    for other in (cut, given):
        torch.testing.assert_close(other.losses, plain.losses, rtol=1e-5, atol=0)
        assert other.metrics == pytest.approx(plain.metrics, rel=1e-5)


def test_one_task_has_the_same_start_and_data(problem: GradNormToy, data: Data) -> None:
    alone = GradNormToy(tasks=("f4",), **SIZES)
    other = alone.data(0, TRAINING)
    assert other.fingerprint == data.fingerprint
    for key, tensor in problem.model(0).state_dict().items():
        assert torch.equal(tensor, alone.model(0).state_dict()[key])
    batch = other.train_batch(9)
    assert torch.equal(batch["inputs"], data.train_batch(9)["inputs"])
    losses = alone.losses(alone.model(0), batch)
    assert losses.shape == (1,)
    torch.testing.assert_close(losses[0], problem.losses(problem.model(0), batch)[3])
    assert list(alone.evaluate(alone.model(0), other.batches("test")).metrics) == [
        "f4/relative_loss",
        "summed_relative_loss",
    ]


def test_every_epoch_is_a_new_order_and_steps_are_pure(data: Data) -> None:
    """300 examples in batches of 64: four full batches without a repetition, others in the next epoch."""
    assert data.steps_per_epoch == 4
    epochs = [torch.cat([data.train_batch(4 * epoch + k)["inputs"] for k in range(4)]) for epoch in (0, 1)]
    for epoch in epochs:
        assert len(torch.unique(epoch, dim=0)) == 256
    assert not torch.equal(*epochs)
    assert torch.equal(data.train_batch(0)["inputs"], epochs[0][:64])


def test_validation_batches_hold_every_example_and_wrap(data: Data) -> None:
    """70 examples in batches of 64: two batches, the second filled up with the first 58 examples."""
    assert data.num_validation_batches == 2
    whole = next(data.batches("validation"))["inputs"]
    second = data.validation_batch(1)["inputs"]
    assert torch.equal(second, torch.cat((whole[64:], whole[:58])))
    assert torch.equal(data.validation_batch(3)["inputs"], second)


def test_splits_share_no_example_and_seeds_differ(problem: GradNormToy, data: Data) -> None:
    inputs = torch.cat([batch["inputs"] for split in ("train", "validation", "test") for batch in data.batches(split)])
    assert len(torch.unique(inputs, dim=0)) == 300 + 70 + 1203
    assert problem.data(1, TRAINING).fingerprint != data.fingerprint


def test_a_few_steps_lower_the_summed_relative_loss(problem: GradNormToy, data: Data) -> None:
    model = problem.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(problem.losses(model, data.train_batch(step)).sum())
        optimizer.step()
    with torch.no_grad():
        assert problem.evaluate(model, data.batches("train")).metrics["f10/relative_loss"] < 0.97


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": 0}, "expected gain to be a finite number above 0, found 0"),
        ({"spread": 0.5}, "expected spread to be a finite number at least 1, found 0.5"),
        ({"test_examples": 0}, "expected test_examples to be an integer at least 1 and below 50001, found 0"),
        ({"tasks": ("f11",)}, "expected tasks among"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_nonsense_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^gradnorm_toy: {message}") as error:
        GradNormToy(**options)
    assert "\n" not in str(error.value)


def test_a_batch_larger_than_the_training_split_is_refused(problem: GradNormToy) -> None:
    with pytest.raises(ValueError, match=r"^gradnorm_toy: expected batch_size to be at most 300, found 301$"):
        problem.data(0, TRAINING.model_copy(update={"batch_size": 301}))
