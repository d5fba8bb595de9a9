"""weighting.jacobian, gramian and apply, for people with a loop of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weighting
from weighting.jacobians import Jacobian


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh()).double()
        self.heads = nn.ModuleList(nn.Linear(7, 1).double() for _ in range(3))
        self.x = torch.randn(11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def each(self) -> list[Tensor]:
        return [(place + 1) * head(self.trunk(self.x)).square().mean() for place, head in enumerate(self.heads)]


def rows(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    found = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
    pairs = [zip(parameters, each, strict=True) for each in found]
    return torch.stack([torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in each]) for each in pairs])


# Stacked numbers, a sequence, and elements of a tensor that was computed as one.
FORMS: dict[str, Any] = {"stack": torch.stack, "sequence": list, "vector": lambda each: torch.stack(each) * 1.0}
EACH = pytest.mark.parametrize("form", FORMS)


@EACH
def test_gramian_and_update_are_those_of_autograd(form: str) -> None:
    net = Net()
    parameters = list(net.parameters())
    each = net.each()
    expected = rows(each, parameters)
    found = weighting.jacobian(FORMS[form](each), net)
    torch.testing.assert_close(found.gramian(), expected @ expected.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.norms(), expected.norm(dim=1), rtol=1e-12, atol=1e-14)
    weights = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    weighting.apply(weights, found)
    update = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
    torch.testing.assert_close(update, weights @ expected, rtol=1e-12, atol=1e-14)


@EACH
def test_among_leaves_the_others_out(form: str) -> None:
    net = Net()
    each = net.each()
    trunk = list(net.trunk.parameters())
    expected = rows(each, trunk)
    found = weighting.jacobian(FORMS[form](each), net)
    torch.testing.assert_close(found.gramian(among=trunk), expected @ expected.T, rtol=1e-12, atol=1e-14)
    found.apply(torch.ones(3), among=trunk)
    assert all(parameter.grad is None for parameter in net.heads.parameters())
    torch.testing.assert_close(weighting.gramian(net.each(), net.trunk), expected @ expected.T, rtol=1e-12, atol=1e-14)


def test_apply_adds_to_what_is_there_as_backward_does() -> None:
    net = Net()
    sum(net.each()).backward()  # type: ignore[union-attr]
    once = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    weighting.apply([1.0, 1.0, 1.0], weighting.jacobian(net.each(), net))
    for parameter, gradient in zip(net.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-12, atol=1e-14)


def test_micro_batches_add_up_in_any_order_with_the_gramian() -> None:
    net = Net()
    found = Jacobian(3, net)
    found.add([loss / 2 for loss in net.each()])
    found.gramian()
    found.add([loss / 2 for loss in net.each()])
    whole = weighting.jacobian(net.each(), net)
    torch.testing.assert_close(found.gramian(), whole.gramian(), rtol=1e-12, atol=1e-14)
    found.clear()
    assert found.num_bytes == 0
    assert torch.equal(found.gramian(), torch.zeros(3, 3, dtype=torch.float64))


def test_a_task_that_comes_later_is_in_its_place() -> None:
    net = Net()
    each = net.each()
    found = Jacobian(3, net)
    found.add([each[0].detach(), each[1], each[2]])
    found.add([net.each()[0], each[1].detach(), each[2].detach()])
    whole = weighting.jacobian(net.each(), net)
    torch.testing.assert_close(found.gramian(), whole.gramian(), rtol=1e-12, atol=1e-14)
    updates = []
    for one in (found, whole):
        net.zero_grad()
        weighting.apply([1.0, 2.0, 3.0], one)
        updates.append([parameter.grad for parameter in net.parameters()])
    for ours, theirs in zip(*updates, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_products_of_rows_that_come_later_are_in_their_place() -> None:
    """The first micro-batch lacks the first task, so that its rows are added last."""
    net = Net()
    found, expected = Jacobian(3, net), rows(net.each(), list(net.parameters()))
    found.add([loss / 2 for loss in net.each()], present=torch.tensor([False, True, True]))
    found.add([net.each()[0], *(loss / 2 for loss in net.each()[1:])])
    torch.testing.assert_close(found.gramian(), expected @ expected.T, rtol=1e-12, atol=1e-14)
    whole = weighting.jacobian(net.each(), net)
    for one, other in ((found, whole), (whole, found)):
        torch.testing.assert_close(one.cross_gramian(other), expected @ expected.T, rtol=1e-12, atol=1e-14)


def test_products_with_gradients_of_before_the_step() -> None:
    """By the parameters that both know; what was taken away stays what it was while the parameters move."""
    net = Net()
    trunk = list(net.trunk.parameters())
    expected = rows(net.each(), trunk)
    gradients = weighting.jacobian(net.each(), net)
    weighting.apply([1.0, 0.5, -1.0], gradients)
    before = gradients.take()
    assert gradients.num_bytes == 0 and before.num_bytes > 0
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.sub_(0.1 * torch.zeros_like(parameter) if parameter.grad is None else 0.1 * parameter.grad)
    later = rows(net.each(), trunk)
    found = weighting.jacobian(net.each(), net.trunk).cross_gramian(before)
    torch.testing.assert_close(found, later @ expected.T, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(found, found.T)
    among = weighting.jacobian(net.each(), net).cross_gramian(before, among=trunk)
    torch.testing.assert_close(among, found, rtol=1e-12, atol=1e-14)


def test_rows_that_are_given_add_up_too() -> None:
    net = nn.Linear(2, 2, bias=False).double()
    given = torch.arange(12.0, dtype=torch.float64).reshape(3, 2, 2)
    found = Jacobian(3, net)
    found.add_rows(0, given)
    found.add_rows(0, given)
    torch.testing.assert_close(found.gramian(), 4 * given.flatten(1) @ given.flatten(1).T)


def test_an_absent_task_takes_no_pass_and_adds_nothing() -> None:
    net = Net()
    each = net.each()
    each[1] = each[1] * float("nan")
    found = weighting.jacobian(each, net, counts=[3, 0, 2])
    assert all(1 not in found.rows(place) for place in range(len(found.parameters)))
    weighting.apply([1.0, 0.0, 1.0], found)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_gradient_that_is_not_finite_adds_nothing_with_weight_0() -> None:
    net = Net()
    each = net.each()
    each[1] = each[1] * float("nan")
    weighting.apply([1.0, 0.0, 1.0], weighting.jacobian(each, net))
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.trunk.parameters())


def test_of_a_head_one_row_is_held() -> None:
    net = Net()
    found = weighting.jacobian(net.each(), net)
    trunk, heads = (sum(p.numel() for p in part.parameters()) for part in (net.trunk, net.heads))
    assert found.num_bytes == 8 * (3 * trunk + heads)


def test_replicas() -> None:
    weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    losses = torch.stack([(weight * scale).square().sum(-1) for scale in (1.0, 2.0)], dim=-1)
    found = weighting.jacobian(losses, [weight], replica_dims=1)
    expected = torch.stack([2 * weight, 8 * weight], dim=-2).detach()
    torch.testing.assert_close(found.gramian(), expected @ expected.mT)
    weights = torch.rand(4, 2, dtype=torch.float64)
    weighting.apply(weights, found)
    torch.testing.assert_close(weight.grad, (weights.unsqueeze(-2) @ expected).squeeze(-2))


def test_a_parameter_may_be_a_single_number_for_each_replica() -> None:
    scale = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    losses = torch.stack([scale, scale.square()], dim=-1)
    found = weighting.jacobian(losses, [scale], replica_dims=1)
    torch.testing.assert_close(found.norms(), torch.tensor([[1.0, 4.0], [1.0, 6.0]]).double())
    assert torch.equal(weighting.gradient_norms(losses, [scale], replica_dims=1), found.norms())
    given = Jacobian(2, [scale], replica_dims=1)
    given.add_rows(0, torch.tensor([[1.0, 1.0], [4.0, 6.0]]).double())
    assert torch.equal(given.norms(), found.norms())


def test_half_precision_is_summed_in_float32() -> None:
    net = nn.Linear(512, 1, bias=False).bfloat16()
    found = Jacobian(2, net)
    given = torch.randn(2, 1, 512, generator=torch.Generator().manual_seed(2)).bfloat16()
    found.add_rows(0, given)
    exact = given.double().flatten(1)
    torch.testing.assert_close(found.gramian(), exact @ exact.T, rtol=1e-5, atol=1e-4)
    found.apply(torch.tensor([1 / 3, 2 / 3]))
    assert net.weight.grad is not None and net.weight.grad.dtype == torch.bfloat16


def test_nothing_to_train() -> None:
    net = Net().requires_grad_(False)
    with pytest.raises(ValueError, match="expected at least one trained parameter"):
        weighting.jacobian(net.each(), net)


def test_weights_of_another_number_of_tasks() -> None:
    net = Net()
    with pytest.raises(ValueError, match=r"apply: expected weights of 3 tasks, found shape \(2,\)"):
        weighting.apply([1.0, 2.0], weighting.jacobian(net.each(), net))


def test_parameters_of_one_task_alone_take_one_pass_for_all_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    parameters = list(net.parameters())
    each = net.each()
    expected = rows(each, parameters)
    found = Jacobian(3, net)
    # Two of the trunk, then weight and bias of each head.
    found.heads = {2 + 2 * task + part: task for task in range(3) for part in range(2)}
    asked: list[int] = []
    real = torch.autograd.grad

    def counted(outputs: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        asked.append(len(inputs))
        return real(outputs, inputs, *rest, **more)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    found.add(torch.stack(each))
    assert asked == [2, 2, 2, 6]
    assert [list(found.rows(place)) for place in range(8)] == [[0, 1, 2]] * 2 + [[0]] * 2 + [[1]] * 2 + [[2]] * 2
    torch.testing.assert_close(found.gramian(), expected @ expected.T, rtol=1e-12, atol=1e-14)
    weighting.apply([0.5, 0.0, 3.0], found)
    update = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
    torch.testing.assert_close(update, torch.tensor([0.5, 0.0, 3.0]).double() @ expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("largest", [1, 50, 2**20])
def test_numbers_do_not_depend_on_how_many_parameters_share_a_tensor(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighting.jacobians.LARGEST_BLOCK", largest)
    net = Net()
    parameters = list(net.parameters())
    expected = rows(net.each(), parameters)
    found = Jacobian(3, net)
    # Asked for in between, and over parts of what lies side by side: of all, of some, of all again with more added.
    found.add(torch.stack(net.each()))
    trunk = expected[:, : 5 * 7 + 7]
    torch.testing.assert_close(found.gramian(), expected @ expected.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.gramian(among=parameters[:1]), trunk[:, :35] @ trunk[:, :35].T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.norms(among=parameters[1:2]), trunk[:, 35:].norm(dim=1), rtol=1e-12, atol=1e-14)
    held = found.num_bytes
    found.add(torch.stack(net.each()))
    assert found.num_bytes == held
    torch.testing.assert_close(found.gramian(), 4 * expected @ expected.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.cross_gramian(found), 4 * expected @ expected.T, rtol=1e-12, atol=1e-14)


def test_a_parameter_may_be_a_single_number() -> None:
    scale, shift = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (2.0, 0.5))
    losses = torch.stack([scale * 3.0 + shift, scale.square()])
    found = weighting.jacobian(losses, [scale, shift])
    torch.testing.assert_close(found.gramian(), torch.tensor([[10.0, 12.0], [12.0, 16.0]]).double())
    torch.testing.assert_close(found.norms(), torch.tensor([10.0**0.5, 4.0]).double())
    weighting.apply([1.0, -0.5], found)
    assert scale.grad is not None and shift.grad is not None
    assert (float(scale.grad), float(shift.grad)) == (1.0, 1.0)
