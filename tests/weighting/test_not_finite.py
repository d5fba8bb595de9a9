"""What is not finite, not there or not a tensor: it never enters a state, a weight or the total."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scripts import every_setting, make
from torch import Tensor, nn

import weighting
from weighting import Needs, Observation, TaskLosses, total
from weighting._cleaning import clean, without
from weighting.coba import CoBa
from weighting.replaying import after_step, at_start, before_step
from weighting.testing.synthetic import Script, changed, in_order, run, script

# ---- the total -------------------------------------------------------------------------------------------------------


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """0 / 0 where the mask is empty, as people write it."""
    return (values * mask).sum() / mask.sum()


@pytest.mark.parametrize("form", [torch.stack, list], ids=["tensor", "sequence"])
@every_setting
def test_an_absent_loss_never_reaches_the_total(name: str, more: dict[str, Any], form: Callable[..., Any]) -> None:
    """One batch lacks a task whose mean is 0 / 0; parameters stay finite for every method."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    weighter = make(name, **more)
    inputs, targets = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    shown = script(3, 1)
    for step in range(12):
        rows = torch.ones(8, 3, dtype=torch.bool)
        if step == 5:
            rows[:, 1] = False
        errors = (model(inputs) - targets).square()
        losses = [errors[rows[:, task], task].sum() / rows[:, task].sum() for task in range(3)]
        counts = rows.sum(0)
        now = Observation(losses=torch.stack(losses), counts=counts)
        if step == 0:
            weighter.start(at_start(weighter, now.replace(val_losses=now.losses, val_counts=counts)))
        rest = shown.steps[0].replace(losses=now.losses, counts=counts, val_counts=counts)
        weights = weighter.weights(before_step(weighter, rest))
        result = total(weights, form(losses), counts)
        assert result.isfinite()
        model.zero_grad()
        result.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all()
                parameter.sub_(0.01 * parameter.grad)
        weighter.update(after_step(weighter, rest))


def test_a_sequence_keeps_even_the_gradient_of_a_masked_mean_out() -> None:
    weight = torch.ones(2, requires_grad=True)
    values, mask = weight * torch.tensor([1.0, 2.0]), torch.zeros(2)
    losses = [(weight * 3).sum(), masked_mean(values, mask)]
    total([1.0, 1.0], losses, [2, 0]).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and torch.equal(weight.grad, torch.tensor([3.0, 3.0]))


@pytest.mark.parametrize(
    ("weights", "losses", "counts", "expected"),
    [
        ([1.0, 2.0], [3.0, 4.0], None, 11.0),
        ([1.0, 0.0], [3.0, float("nan")], None, 3.0),
        ([1.0, 2.0], [3.0, float("inf")], None, 3.0),
        ([1.0, 2.0], [3.0, 4.0], [5, 0], 3.0),
        ([1.0, 2.0], [3.0, float("nan")], [True, False], 3.0),
        ([[1.0, 2.0], [1.0, 1.0]], [[1.0, 1.0], [float("nan"), 5.0]], [[1, 1], [0, 3]], 8.0),
    ],
)
def test_the_total_by_hand(weights: Any, losses: Any, counts: Any, expected: float) -> None:
    result = total(torch.tensor(weights), torch.tensor(losses), None if counts is None else torch.tensor(counts))
    assert float(result) == expected


def test_the_total_of_ordinary_losses_is_the_plain_sum_to_the_last_bit() -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        weights, losses = torch.rand(7, generator=draw), torch.rand(7, generator=draw)
        assert torch.equal(total(weights, losses), (weights * losses).sum())
        assert torch.equal(total(weights, losses, torch.ones(7)), (weights * losses).sum())


def test_the_total_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"total: expected weights of the shape of the losses, found \(3,\)"):
        total(torch.ones(3), torch.ones(2))


# ---- sums and counts -------------------------------------------------------------------------------------------------


def test_micro_batches_add_up_to_the_batch() -> None:
    step = TaskLosses(3)
    step.add([6.0, 1.0, float("nan")], [3, 1, 0])
    step.add(torch.tensor([4.0, 3.0, 0.0]), torch.tensor([1, 1, 0]))
    now = step.observation()
    assert now.losses is not None and now.counts is not None and now.present is not None
    assert now.losses.tolist() == [2.5, 2.0, 0.0]
    assert now.counts.tolist() == [4, 2, 0]
    assert now.present.tolist() == [True, True, False]
    step.clear()
    with pytest.raises(ValueError, match="expected a micro-batch before the observation, found none"):
        step.observation()
    with pytest.raises(ValueError, match="expected sums of 3 tasks, found shape"):
        step.add([1.0], [1])


def test_observations_take_what_people_pass() -> None:
    plain = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    same: list[Any] = [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1.0, 2.0, 3.0]),
        np.array([1, 2, 3]),
        torch.tensor([1, 2, 3]),
        [torch.tensor(1.0), torch.tensor(2.0), 3.0],
        [np.float64(1), np.int64(2), 3],
    ]
    for name in (name for name, kind in weighting.METHODS.items() if Needs.GRAMIAN not in kind.needs):
        expected = make(name).weights(Observation(losses=plain))
        for losses in same:
            assert torch.allclose(make(name).weights(Observation(losses=losses)).double(), expected, rtol=1e-6)
    alone: list[Any] = [2.0, np.float32(2), torch.tensor(2.0), torch.tensor([2])]
    for losses in alone:
        assert weighting.create("scale_invariant", 1).weights(Observation(losses=losses)).tolist() == [0.5]
    for kind in (torch.bool, torch.int64):
        answer = weighting.create("uniform", 3).weights(Observation(losses=torch.ones(3, dtype=kind)))
        assert answer.dtype == torch.float32 and answer.tolist() == [1, 1, 1]


NO_NUMBERS: list[Any] = ["abc", ["a", "b"], [None, 1, 2], object(), {"a": 1.0}, torch.ones(3) * 1j, [[1, 2], [3]]]


@pytest.mark.parametrize("losses", NO_NUMBERS, ids=range(len(NO_NUMBERS)))
def test_what_holds_no_numbers_is_one_line(losses: Any) -> None:
    with pytest.raises(TypeError, match=r"^expected losses as .*found") as error:
        Observation(losses=losses)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", ["start", "weights", "update"])
def test_a_tensor_for_an_observation_is_one_line(call: str) -> None:
    for name in weighting.names():
        with pytest.raises(TypeError, match=rf"^{name}\.{call}: expected an Observation, found Tensor; pass Observation"):
            getattr(make(name), call)(torch.ones(3))


def test_hyperparameters_may_be_tensors_and_numpy() -> None:
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        ("static", np.int64(3), {"weights": torch.tensor([1.0, 2.0, 3.0])}),
        ("static", torch.tensor(3), {"weights": np.array([1, 2, 3])}),
        ("dwa", 3, {"temperature": torch.tensor(2.0), "window": np.int32(4)}),
        ("famo", 3, {"min_losses": torch.zeros(3), "lr": np.float32(0.5), "gamma": torch.tensor(0)}),
        ("uncertainty", 3, {"initial_log_variance": np.float64(1.0)}),
        ("coba", 3, {"warmup": torch.tensor(2), "tau": np.float64(5)}),
        ("gradnorm", 3, {"alpha": torch.tensor(1.5, dtype=torch.float64)}),
    ]
    for name, num_tasks, more in kinds:
        weights = weighting.create(name, num_tasks, **more).weights(Observation(losses=[1.0, 2.0, 3.0]))
        assert weights.shape == (3,) and weights.isfinite().all()
    assert weighting.create("static", 3, weights=torch.tensor([1.0, 2.0, 3.0])).weights(
        Observation(losses=[1.0, 1.0, 1.0])
    ).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("dwa", {"temperature": torch.tensor([1.0, 2.0])}, "dwa: expected temperature to be a finite number above 0, found"),
        ("dwa", {"window": 2.5}, "dwa: expected window to be an integer at least 1, found 2.5"),
        ("dwa", {"window": True}, "dwa: expected window to be an integer at least 1, found True"),
        ("coba", {"tau": np.array([1.0, 2.0])}, "coba: expected tau to be a finite number above 0, found"),
        ("famo", {"min_losses": torch.zeros(2)}, "famo: expected min_losses with 3 numbers"),
        ("uniform", {"prior": [1.0, 2.0]}, "uniform: expected prior with 3 numbers"),
        ("uniform", {"prior": [1.0, -2.0, 1.0]}, "uniform: expected every number of prior to be a finite number at least 0"),
        ("uniform", {"prior": [0, 0, 0]}, "uniform: expected the sum of prior to be a finite number above 0"),
    ],
)
def test_hyperparameters_of_another_kind_are_one_line(name: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        weighting.create(name, 3, **more)
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_a_task_without_slopes_does_not_disturb_cobas_others() -> None:
    """With one dead task of four, the others get what they get among three, and it gets its equal share."""
    shown = script(4, 60)

    def die(field: str, values: Tensor) -> Tensor:
        return values.index_fill(-1, torch.tensor([3]), 2.0) if field == "val_losses" else values

    def leave_out(field: str, values: Tensor) -> Tensor:
        return in_order(field, values, torch.arange(3))

    dead, three = shown.changed(die), shown.changed(leave_out)
    for name in ("coba", "coba_relative", "coba_absolute", "coba_fixed_mix", "coba_from_start"):
        found = run(weighting.create(name, 4, warmup=5, window=20), dead)
        alone = run(weighting.create(name, 3, warmup=5, window=20), three)
        torch.testing.assert_close(found[:, 3], torch.full((60,), 0.25, dtype=torch.float64))
        torch.testing.assert_close(found[:, :3] / 0.75, alone, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(alone[-1], alone[0])


@pytest.mark.parametrize("batch_shape", [(), (2,)])
def test_cobas_scores_make_its_weights(batch_shape: tuple[int, ...]) -> None:
    weighter = CoBa(3, batch_shape=batch_shape, warmup=5, window=20)
    run(weighter, script(3, 40, batch_shape=batch_shape))
    relative, absolute, factor = weighter.scores()
    probes = weighter.probes()
    assert (relative.shape, absolute.shape, factor.shape) == ((*batch_shape, 3), (*batch_shape, 3), (*batch_shape, 1))
    assert torch.equal(probes["RCS"], relative) and torch.equal(probes["DF"], factor.squeeze(-1))
    for scores in (relative, absolute):
        torch.testing.assert_close(scores.sum(-1), torch.ones(batch_shape, dtype=torch.float64))
    assert bool(((factor >= 0) & (factor <= 1)).all())
    torch.testing.assert_close(
        factor * relative + (1 - factor) * absolute,
        weighter.weights(Observation(losses=torch.ones(*batch_shape, 3, dtype=torch.float64))),
    )


@pytest.mark.parametrize("name", ["gradnorm", "gradnorm_libmtl"])
def test_gradnorm_does_not_divide_by_a_first_loss_of_zero(name: str) -> None:
    """Three equal tasks, the first loss of one is 0: they stay equal from then on."""
    weighter = weighting.create(name, 3)
    first = Observation(losses=[1.0, 0.0, 1.0])
    weighter.start(first)
    for _ in range(200):
        weighter.update(Observation(losses=[0.9, 0.9, 0.9], grad_norms=[1.0, 1.0, 1.0]))
    weights = weighter.weights(Observation(losses=[0.9, 0.9, 0.9]))
    assert weights.isfinite().all()
    assert (weights - 1).abs().max() < 0.6
    assert weighter.guards_taken()["zero_initial_loss"] == 1


def test_gradnorm_with_nothing_but_zeros_stays_equal() -> None:
    weighter = weighting.create("gradnorm", 3)
    zeros = Observation(losses=[0.0, 0.0, 0.0], grad_norms=[0.0, 0.0, 0.0])
    weighter.start(zeros)
    for _ in range(5):
        weighter.update(zeros)
    assert weighter.weights(zeros).tolist() == [1, 1, 1]


def test_famo_leaves_out_a_loss_at_its_lower_bound() -> None:
    weighter = weighting.create("famo", 3)
    weighter.start(Observation(losses=[1.0, 0.0, 1.0]))
    weights = weighter.weights(Observation(losses=[1.0, 0.0, 1.0]))
    assert weights.tolist() == [0.5, 0, 0.5]
    weighter.update(Observation(losses=[1.0, 0.0, 1.0], losses_after=[0.9, 0.5, 0.9]))
    assert weighter.guards_taken() == {"at_lower_bound": 1}
    twin = weighting.create("famo", 3)
    absent = Observation(losses=[1.0, 5.0, 1.0], counts=[1, 0, 1], losses_after=[0.9, 0.5, 0.9])
    twin.update(absent)
    assert torch.equal(
        weighter.weights(Observation(losses=[1.0, 1.0, 1.0])), twin.weights(Observation(losses=[1.0, 1.0, 1.0]))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_setting
def test_numbers_at_the_ends_of_the_range_give_finite_weights(name: str, more: dict[str, Any], dtype: torch.dtype) -> None:
    """Whatever a task's numbers are, the smallest or the largest there are, at the start or later."""
    range_of = torch.finfo(dtype)
    least = range_of.smallest_normal * range_of.eps
    for position in (0, 4):
        for extreme in (least, range_of.smallest_normal, range_of.max):
            for tasks in ([1], [0, 1, 2]):
                shown = script(3, 12, dtype=dtype)

                def at_the_end(_field: str, value: Tensor, tasks: list[int] = tasks, extreme: float = extreme) -> Tensor:
                    return value.index_fill(-1, torch.tensor(tasks), extreme)

                rows = [shown.first, *shown.steps]
                rows[position : position + 2] = [changed(row, at_the_end) for row in rows[position : position + 2]]
                weights = run(make(name, **more), Script(rows[0], rows[1:]))
                assert weights.isfinite().all(), (position, extreme, tasks)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, math.nan, 0], [math.nan, 1, 0], [0, 0, 1]], [0, 0, 1]),
        ([[1, math.inf, 0], [math.inf, math.inf, 0], [0, 0, 1]], [1, 0, 1]),
        ([[1, 0.5, 0], [0.5, 1e300, 0], [0, 0, 1]], [1, 0, 1]),
    ],
    ids=["a product", "a norm", "too large to square"],
)
def test_a_task_of_the_gramian_is_absent_where_its_own_products_are_not_finite(
    rows: list[list[float]], expected: list[int]
) -> None:
    """A task whose norm is not finite takes no other task away."""
    seen = Observation(losses=[1.0, 1.0, 1.0], gramian=rows)
    found, not_finite = clean("mine", seen, (3,), torch.float64, torch.device("cpu"))
    assert found.counts is not None and found.counts.tolist() == expected
    assert not_finite is not None and not_finite.logical_not().int().tolist() == expected
    assert found.gramian is not None and found.gramian.isfinite().all()


NAN = math.nan


@pytest.mark.parametrize(
    ("rows", "counts", "val_counts", "expected", "val_expected"),
    [
        ([[1, NAN, 3], [4, NAN, 6], [7, NAN, 9]], None, None, [1, 0, 1], [1, 1, 1]),
        ([[1, 2, 3], [NAN, math.inf, NAN], [7, 8, 9]], None, None, [1, 1, 1], [1, 0, 1]),
        ([[1, NAN, 3], [NAN, NAN, NAN], [7, NAN, 9]], None, None, [1, 0, 1], [1, 0, 1]),
        ([[1, 2, 1e300], [4, 5, 6], [7, 8, 9]], None, None, [1, 1, 1], [0, 1, 1]),
        ([[1, NAN, 3], [4, NAN, 6], [7, NAN, 9]], [1, 0, 1], None, [1, 0, 1], [1, 1, 1]),
        ([[NAN, NAN, 3], [NAN, NAN, NAN], [NAN, NAN, 9]], [0, 0, 1], [1, 0, 1], [0, 0, 1], [1, 0, 1]),
    ],
    ids=["a column", "a row", "both", "one too large", "absent in training", "absent in both"],
)
def test_rows_of_the_cross_gramian_are_of_validation_and_columns_of_training(
    rows: list[list[float]],
    counts: list[int] | None,
    val_counts: list[int] | None,
    expected: list[int],
    val_expected: list[int],
) -> None:
    """What is left out reads as 0; nobody else is taken away, and what is said to be absent is no accident."""
    seen = Observation(losses=[1.0, 1.0, 1.0], counts=counts, val_counts=val_counts, cross_gramian=rows)
    found, not_finite = clean("mine", seen, (3,), torch.float64, torch.device("cpu"))
    assert found.counts is not None and found.val_counts is not None and found.cross_gramian is not None
    assert (found.counts > 0).int().tolist() == expected
    assert (found.val_counts > 0).int().tolist() == val_expected
    kept = torch.tensor(val_expected).outer(torch.tensor(expected)).bool()
    assert torch.equal(found.cross_gramian, torch.where(kept, torch.tensor(rows, dtype=torch.float64), 0.0))
    said = torch.tensor(counts or [1] * 3), torch.tensor(val_counts or [1] * 3)
    lost = (said[0] - torch.tensor(expected)) | (said[1] - torch.tensor(val_expected))
    assert not_finite is not None and not_finite.int().tolist() == lost.tolist()
    alone = without(found, torch.tensor([False, False, True]))
    assert alone.cross_gramian is not None
    assert torch.equal(alone.cross_gramian, found.cross_gramian.index_fill(-1, torch.tensor([2]), 0.0))


@pytest.mark.parametrize("name", [name for name in weighting.names() if name not in ("uniform", "static")])
def test_one_task_in_each_batch_is_as_the_pages_say(name: str) -> None:
    """Shares among the tasks of a batch are constant where there is one; what a task's own losses say is not."""
    weighter, weights = make(name), []
    for number, step in enumerate(script(3, 90).steps):
        counts = torch.zeros(3)
        counts[number % 3] = 1
        seen = step.replace(counts=counts, val_counts=counts)
        if number == 0:
            weighter.start(at_start(weighter, seen))
        weights.append(float(weighter.weights(before_step(weighter, seen)).sum()))
        weighter.update(after_step(weighter, seen))
    moves = max(weights) - min(weights) > 1e-3
    among = (
        "token_mean",
        "gradnorm",
        "gls",
        "famo",
        "coba",
        "relobralo",
        "mgda",
        "pcgrad",
        "gradvac",
        "imtl_g",
        "cagrad",
        "aligned_mtl",
        "upgrad",
        "metaweighting",
    )
    shares = weighting.family(name) in among or name in ("lbtw_official", "nash_mtl_official")
    assert moves is not shares
