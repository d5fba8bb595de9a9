"""multidigits: the canvas by hand, splits without a shared digit, losses and metrics against numpy."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.contract import Batch, Data, Split
from benchmarks.problems.multidigits import MultiDigits, Network, digits, overlay, split_digits

SIZES: dict[str, Any] = {"train_pairs": 200, "validation_pairs": 50, "test_pairs": 707}
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@pytest.fixture(scope="module")
def problem() -> MultiDigits:
    return MultiDigits(**SIZES)


@pytest.fixture(scope="module")
def data(problem: MultiDigits) -> Data:
    return problem.data(0, problem.training)


def whole(data: Data, split: Split) -> dict[str, Tensor]:
    batches = list(data.batches(split))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def softmax_cross_entropy(logits: np.ndarray, classes: np.ndarray) -> float:
    shifted = logits - logits.max(-1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-log_probability[np.arange(len(classes)), classes].mean())


def test_digits_are_in_the_unit_interval() -> None:
    images, classes = digits()
    assert images.shape == (1797, 8, 8)
    assert (images.min().item(), images.max().item()) == (0, 1)
    assert torch.equal(torch.unique(classes), torch.arange(10))


def test_overlay_by_hand() -> None:
    """Left 0.3 and right 0.7 everywhere: 64 pixels less the shared 16 stay 0.3, 64 are 0.7, two corners of 16 are empty."""
    canvas = overlay(torch.full((1, 8, 8), 0.3), torch.full((1, 8, 8), 0.7))
    assert canvas.shape == (1, 12, 12)
    assert (canvas == 0.3).sum().item() == 48
    assert (canvas == 0.7).sum().item() == 64
    assert (canvas == 0).sum().item() == 32
    assert (canvas[0, 0, 0].item(), canvas[0, 11, 11].item()) == pytest.approx((0.3, 0.7))
    assert canvas[0, 0, 11].item() == canvas[0, 11, 0].item() == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_no_digit_image_is_in_two_splits(seed: int) -> None:
    """By content, so that equal images under two indices would count as well; all 1,797 are used."""
    images = digits()[0].numpy()
    hashes = {
        split: {hashlib.sha256(images[k].tobytes()).digest() for k in members}
        for split, members in split_digits(seed).items()
    }
    assert [len(hashes[split]) for split in SPLITS] == [1078, 360, 359]
    assert len(set.union(*hashes.values())) == 1797


def test_canvases_come_from_the_digits_of_their_split(data: Data) -> None:
    """The upper left 4 x 4 of a canvas is that of its left digit, the lower right that of its right digit, alone."""
    images, classes = digits()
    for split, members in split_digits(0).items():
        batch = whole(data, split)
        for name, corner in (("left", np.s_[:, :4, :4]), ("right", np.s_[:, -4:, -4:])):
            known: dict[bytes, set[int]] = {}
            for k in members.tolist():
                known.setdefault(images[k : k + 1][corner].numpy().tobytes(), set()).add(int(classes[k]))
            corners = batch["clean"][corner].numpy()
            for found, label in zip(corners, batch[name].tolist(), strict=True):
                assert label in known[found.tobytes()]


def test_noise_is_fixed_per_example_and_as_strong_as_asked(problem: MultiDigits, data: Data) -> None:
    """The noise of 200 x 144 pixels has a standard error of 0.3 / sqrt(57,600) = 0.00125."""
    batch = whole(data, "train")
    assert (batch["noisy"] - batch["clean"]).std().item() == pytest.approx(0.3, abs=0.005)
    quiet = whole(MultiDigits(noise=0, **SIZES).data(0, problem.training), "train")
    assert torch.equal(quiet["noisy"], batch["clean"])


def test_losses_and_metrics_against_numpy(problem: MultiDigits, data: Data) -> None:
    model, batch = problem.model(0), whole(data, "validation")
    assert isinstance(model, Network)
    losses = problem.losses(model, batch)
    assert losses.shape == (3,)
    assert losses.requires_grad
    with torch.no_grad():
        features = model(batch["noisy"])
        left, right, canvas = (model.answer(task, features).numpy() for task in problem.all_tasks)
        found = problem.evaluate(model, data.batches("validation"))
    mse = float(np.mean((canvas - batch["clean"].numpy()) ** 2))
    expected = [
        softmax_cross_entropy(left, batch["left"].numpy()),
        softmax_cross_entropy(right, batch["right"].numpy()),
        mse,
    ]
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(found.losses.numpy(), expected, rtol=1e-5)
    assert found.metrics == pytest.approx({
        "left/accuracy": np.mean(left.argmax(-1) == batch["left"].numpy()),
        "right/accuracy": np.mean(right.argmax(-1) == batch["right"].numpy()),
        "reconstruction/mse": mse,
    })  # fmt: skip
    assert list(found.metrics) == [metric.key for metric in problem.metrics]


def test_directions(problem: MultiDigits) -> None:
    assert [metric.higher_is_better for metric in problem.metrics] == [True, True, False]


def test_evaluation_averages_exactly_over_unequal_batches(problem: MultiDigits, data: Data) -> None:
    """707 pairs come as 500 and 207; cut into 3, 600 and 104 the means are the same."""
    batches = list(data.batches("test"))
    assert [len(batch["noisy"]) for batch in batches] == [500, 207]
    full = whole(data, "test")
    pieces: list[Batch] = [{name: tensor[a:b] for name, tensor in full.items()} for a, b in ((0, 3), (3, 603), (603, 707))]
    model = problem.model(1)
    with torch.no_grad():
        cut, given, plain = (problem.evaluate(model, iter(parts)) for parts in (pieces, batches, [full]))
    for other in (cut, given):
        torch.testing.assert_close(other.losses, plain.losses, rtol=1e-5, atol=0)
        assert other.metrics == pytest.approx(plain.metrics, rel=1e-5)


@pytest.mark.parametrize("task", MultiDigits.all_tasks)
def test_one_task_has_the_same_start_and_data(task: str, problem: MultiDigits, data: Data) -> None:
    alone = MultiDigits(tasks=(task,), **SIZES)
    other = alone.data(0, alone.training)
    assert other.fingerprint == data.fingerprint
    for key, tensor in problem.model(0).state_dict().items():
        assert torch.equal(tensor, alone.model(0).state_dict()[key])
    batch = other.train_batch(5)
    assert torch.equal(batch["noisy"], data.train_batch(5)["noisy"])
    losses = alone.losses(alone.model(0), batch)
    assert losses.shape == (1,)
    torch.testing.assert_close(losses[0], problem.losses(problem.model(0), batch)[problem.tasks.index(task)])


def test_model_leaves_the_global_stream_alone(problem: MultiDigits) -> None:
    before = torch.get_rng_state()
    problem.model(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_differ(problem: MultiDigits, data: Data) -> None:
    assert problem.data(1, problem.training).fingerprint != data.fingerprint


def test_shared_layer_feeds_every_head(problem: MultiDigits, data: Data) -> None:
    model, batch = problem.model(0), data.train_batch(0)
    weight = problem.shared_layer(model).get_parameter("weight")
    for loss in problem.losses(model, batch):
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert gradient.abs().sum().item() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -1}, "expected noise to be a finite number at least 0, found -1"),
        ({"train_pairs": 0}, "expected train_pairs to be an integer at least 1, found 0"),
        ({"validation_pairs": 1.5}, "expected validation_pairs to be an integer at least 1, found 1.5"),
        ({"tasks": ("middle",)}, "expected tasks among left, right, reconstruction, found 'middle'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_nonsense_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^multidigits: {message}$"):
        MultiDigits(**options)
