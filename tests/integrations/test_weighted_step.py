"""The step object against training by hand on whole batches: micro-batches, resuming, skipped steps, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import (
    LR,
    METHODS,
    STEPS,
    TASKS,
    Batch,
    K,
    assert_equal,
    by_hand,
    counts_of,
    flat,
    last_weight,
    means,
    measure,
    model,
    sums_of,
    training_batches,
)
from by_step import one_step, parts_of, run, shown_to, stepped
from torch import nn

import weighting
from weighting import WeightedStep


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_train_as_the_whole_batch_by_hand(name: str, pieces: int) -> None:
    assert_equal(run(name, pieces), by_hand(name))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "uniform"])
def test_the_weights_move(name: str) -> None:
    """Else the equality would say nothing of them."""
    weights = by_hand(name).weights
    present = weights[[0, 2, 3, 5]]
    assert (present[-1] - present[0]).abs().max() > 1e-3


# ---- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(1, STEPS))
@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_stops_at_any_step_goes_on_as_if_it_had_not(name: str, stop: int, tmp_path: Path) -> None:
    trained = model()
    step, optimizer = stepped(trained, name), torch.optim.SGD(trained.parameters(), lr=LR)
    batches = training_batches()
    for whole in batches[:stop]:
        one_step(step, trained, trained, optimizer, parts_of(whole, 2))
    torch.save({"model": trained.state_dict(), "step": step.state_dict()}, tmp_path / "saved.pt")

    other = model()
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    other.load_state_dict(saved["model"])
    resumed, optimizer = stepped(other, name), torch.optim.SGD(other.parameters(), lr=LR)
    resumed.load_state_dict(saved["step"])
    for whole in batches[stop:]:
        one_step(resumed, other, other, optimizer, parts_of(whole, 2))
    torch.testing.assert_close(flat(other), by_hand(name).parameters, rtol=1e-10, atol=1e-10)
    again = model()
    whole_run = stepped(again, name)
    optimizer = torch.optim.SGD(again.parameters(), lr=LR)
    for whole in batches:
        one_step(whole_run, again, again, optimizer, parts_of(whole, 2))
    assert resumed.logs() == pytest.approx(whole_run.logs(), rel=1e-12, nan_ok=True)


def test_the_state_of_other_tasks_is_refused() -> None:
    step = WeightedStep(weighting.create("uniform", 2), ["a", "b"])
    with pytest.raises(ValueError, match=r"expected the state of tasks \['b', 'a'\], found \['a', 'b'\]"):
        WeightedStep(weighting.create("uniform", 2), ["b", "a"]).load_state_dict(step.state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_of_a_step_that_the_scaler_skipped_nothing_is_learned(name: str) -> None:
    assert_equal(run(name, skipped=3), by_hand(name, skipped=3))


@pytest.mark.parametrize("name", ["coba", "famo", "gradnorm"])
def test_a_compiled_model_trains_as_by_hand(name: str) -> None:
    """Through all that a compiler does but the making of machine code."""
    with torch._functorch.config.patch(donated_buffer=False):
        assert_equal(run(name, wrapped=partial(torch.compile, backend="aot_eager")), by_hand(name))


def test_a_compiled_graph_that_is_used_up_by_one_task_is_told_in_words() -> None:
    with pytest.raises(RuntimeError, match=r"found one of torch.compile that is used up by the first; set torch._functorch"):
        run("gradnorm", wrapped=partial(torch.compile, backend="aot_eager"))


# ---- factors, skipped steps, precision ------------------------------------------------------------------------------


def test_what_the_framework_divides_by_is_undone() -> None:
    step = WeightedStep(weighting.create("uniform", 2), ["a", "b"], ranks_averaged=3, loss_divided_by=4)
    step.open([2, 0])
    sums = torch.tensor([6.0, 0.0], requires_grad=True)
    assert step.total(sums).item() == 6 / 2 * 3 * 4


def test_a_step_that_a_scaler_skipped_teaches_nothing() -> None:
    trained = model()
    step, optimizer = stepped(trained, "coba"), torch.optim.SGD(trained.parameters(), lr=LR)
    for whole in training_batches()[:3]:
        one_step(step, trained, trained, optimizer, parts_of(whole, 2))
    step.logs()
    before = {key: value.clone() for key, value in step.weighter.state_dict().items()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    (part,) = parts_of(training_batches()[3], 1)
    step.open(counts_of(part))
    scaler.scale(step.total(sums_of(trained, part))).backward()  # type: ignore[no-untyped-call]
    gradient = last_weight(trained).grad
    assert gradient is not None
    gradient.fill_(torch.inf)
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < scale
    step.close(skipped=scaler.get_scale() < scale)
    torch.testing.assert_close(step.weighter.state_dict(), before, rtol=0, atol=0)
    assert (step.steps, step.skipped, step.logs()) == (3, 1, {})
    assert step.validation is not None
    assert step.validation.position == 3


@pytest.mark.parametrize("name", METHODS)
def test_a_bfloat16_model_has_weights_of_at_least_float32(name: str) -> None:
    trained = model().bfloat16()
    step = stepped(trained, name, lagged=True)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
    for whole in training_batches():
        parts = [Batch(part.inputs.bfloat16(), part.targets.bfloat16(), part.mask, part.task) for part in parts_of(whole, 2)]
        step.measure = lambda part: measure(trained)(Batch(part.inputs.bfloat16(), part.targets, part.mask, part.task))
        one_step(step, trained, trained, optimizer, parts)
        assert step.weights is not None
        assert step.weights.dtype.itemsize >= 4
        assert step.weights.isfinite().all()


def test_dropout_is_drawn_alike_before_and_after_the_step() -> None:
    """FAMO compares the losses of one batch before and after: with a learning rate of 0 they must be the same."""
    torch.manual_seed(5)
    trained = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 1)).double()
    step = stepped(trained, "famo")
    shown = shown_to(step.weighter)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0)
    for whole in training_batches():
        one_step(step, trained, trained, optimizer, parts_of(whole, 2))
    for seen in shown:
        torch.testing.assert_close(seen.losses, seen.losses_after, rtol=1e-12, atol=0)


# ---- losses before the backward pass --------------------------------------------------------------------------------


def test_a_method_that_answers_from_losses_asks_for_them() -> None:
    with pytest.raises(ValueError, match=r"gls: expected losses= in open\(\).*lagged=True"):
        WeightedStep(weighting.create("gls", 2), ["a", "b"]).open([1, 1])


def test_a_method_on_the_gramian_asks_for_gradients_and_for_where() -> None:
    step = WeightedStep(weighting.create("mgda", 2), ["a", "b"])
    with pytest.raises(ValueError, match=r"mgda: expected gradients= in open\(\), as its weights follow from the gradients"):
        step.open([1, 1])
    step = WeightedStep(weighting.create("mgda", 2), ["a", "b"])
    losses = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(ValueError, match="mgda: expected shared=, the parameters at which it compares gradients"):
        step.open([1, 1], gradients=lambda: [losses])


def test_lagged_losses_are_those_of_the_last_step() -> None:
    step = WeightedStep(weighting.create("gls", 2), ["a", "b"], lagged=True)
    step.open([1, 1])
    step.total(torch.tensor([2.0, 8.0], requires_grad=True))
    step.close()
    found = step.open([1, 1])
    torch.testing.assert_close(found, weighting.create("gls", 2).weights(weighting.Observation(losses=[2.0, 8.0])))


def test_a_dictionary_of_losses_is_taken_and_a_wrong_name_is_not() -> None:
    step = WeightedStep(weighting.create("uniform", 2), ["depth", "normal"])
    step.open({"depth": 4, "normal": 2})
    total = step.total({"normal": torch.tensor(6.0, requires_grad=True)})
    assert total.item() == 3
    with pytest.raises(ValueError, match=r"expected sums of tasks \['depth', 'normal'\], found \['dept'\]"):
        step.total({"dept": torch.tensor(1.0)})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda step: step.close(), r"expected open\(\) before"),
        (lambda step: (step.open([1, 1]), step.open([1, 1])), r"expected close\(\) before the next open\(\)"),
        (lambda step: (step.open([1, 1]), step.state_dict()), "expected a closed step"),
    ],
)
def test_calls_out_of_order_are_one_line(wrong: Callable[[WeightedStep], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        wrong(WeightedStep(weighting.create("uniform", 2), ["a", "b"]))


def test_logs_are_means_since_the_last_and_nan_for_absent_tasks() -> None:
    step = WeightedStep(weighting.create("uniform", 3), ["a", "b", "c"])
    for sums, counts in [([2.0, 3.0, 0.0], [2, 1, 0]), ([12.0, 0.0, 0.0], [4, 0, 0])]:
        step.open(counts)
        step.total(torch.tensor(sums, requires_grad=True))
        step.close()
    nan = float("nan")
    expected = {"loss/a": 2.0, "loss/b": 3.0, "loss/c": nan, "weight/a": 1.0, "weight/b": 1.0, "weight/c": nan}
    expected |= {"count/a": 3.0, "count/b": 1.0, "count/c": nan}
    assert step.logs() == pytest.approx(expected, nan_ok=True)
    assert step.logs() == {}


def test_scores_are_logged_on_request() -> None:
    trained = model()
    step, optimizer = stepped(trained, "coba"), torch.optim.SGD(trained.parameters(), lr=LR)
    one_step(step, trained, trained, optimizer, parts_of(training_batches()[0], 1))
    assert {"RCS/code", "ACS/text", "DF"} <= set(step.logs(scores=True))


# ---- several methods at once ----------------------------------------------------------------------------------------


def test_groups_of_tasks_have_methods_of_their_own_side_by_side() -> None:
    """And constants multiply the weights of any of them."""
    trained = model()
    (part,) = parts_of(training_batches()[0], 1)
    one = WeightedStep(weighting.create("uniform", 2, prior=[20, 1]), TASKS[:2])
    other = WeightedStep(weighting.create("uniform", 1, prior=3.0), TASKS[2:])
    one.open(counts_of(part)[:2])
    other.open(counts_of(part)[2:])
    sums = sums_of(trained, part)
    (one.total(sums[:2]) + other.total(sums[2:])).backward()  # type: ignore[no-untyped-call]
    expected = torch.autograd.grad((torch.tensor([20.0, 1.0, 3.0]) * means(trained, part)).sum(), last_weight(trained))
    torch.testing.assert_close(last_weight(trained).grad, expected[0], rtol=1e-10, atol=0)


def test_groups_of_parameters_have_methods_of_their_own() -> None:
    trained = model()
    (part,) = parts_of(training_batches()[0], 1)
    groups = {(1.0, 1.0, 1.0): [*trained[0].parameters()], (5.0, 1.0, 0.0): [*trained[2].parameters()]}
    losses = means(trained, part)
    sums = sums_of(trained, part)
    for weights, group in groups.items():
        step = WeightedStep(weighting.create("static", K, weights=list(weights)), TASKS)
        step.open(counts_of(part))
        step.total(sums).backward(inputs=group, retain_graph=True)  # type: ignore[no-untyped-call]
        expected = torch.autograd.grad((torch.tensor(weights) * losses).sum(), group, retain_graph=True)
        torch.testing.assert_close([p.grad for p in group], list(expected), rtol=1e-10, atol=0)


def test_a_method_on_gradients_of_validation_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ValueError, match=r"^metaweighting: expected a loop of your own.*found WeightedStep") as error:
        WeightedStep(weighting.create("metaweighting", 2), ["one", "other"])
    assert "\n" not in str(error.value)
