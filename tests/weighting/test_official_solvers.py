"""Variants that solve as official code does: where they agree with it, and what they do when it goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from places import TESTS
from replays import OFFICIAL, Trace, expected_of, files, found, gramians, group_of, largest_difference, numbers
from torch import Tensor

import weighting
from weighting import Observation
from weighting._gramian import Gradients, equal_shares
from weighting.nash_mtl_official import _least_point


def traces_of(group: str) -> list[Trace]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in files(TESTS / "traces") if group_of(path) == group]


def test_nash_mtl_official_goes_wrong_as_that_code_does() -> None:
    """By what that code's weights are worth: the numbers of docs/methods/nash_mtl.md."""
    limits = {"solved": 1e-6, "nearly solved": 4e-3, "at rest elsewhere": 5e-4, "kept": 5e-4}
    largest = dict.fromkeys(limits, 0.0)
    number = dict.fromkeys(limits, 0)
    for trace in traces_of("nash_mtl"):
        ours, theirs = OFFICIAL["nash_mtl"].weights(trace), numbers(trace["weights"])
        before = torch.cat([torch.ones_like(theirs[:1]), theirs[:-1]])
        differences = ((ours - theirs).abs() / theirs).amax(-1).tolist()
        exact, kept = numbers(found(trace, "exact_weights")), (theirs == before).all(-1).tolist()
        rows = zip(differences, trace["outputs"]["residual"], kept, ours, exact, strict=True)
        for difference, residual, stayed, own, right in rows:
            kind = (
                "kept"
                if stayed
                else "solved"
                if residual < 2e-6
                else "nearly solved"
                if residual < 5e-3
                else "at rest elsewhere"
            )
            largest[kind], number[kind] = max(largest[kind], difference), number[kind] + 1
            if kind == "at rest elsewhere":
                assert ((own - right).abs() / right).max() > 5
    assert number == {"solved": 32, "nearly solved": 5, "at rest elsewhere": 7, "kept": 4}
    assert all(largest[kind] <= limit for kind, limit in limits.items()), largest


@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_no_point_beside_the_least_one_is_better(number: int) -> None:
    """On the edge of what is allowed, scaled back to it, every neighbour has a larger objective."""
    draw = torch.Generator().manual_seed(number)
    rows = torch.nn.functional.normalize(torch.randn(20, number, 2 * number, generator=draw, dtype=torch.float64), dim=-1)
    matrix = rows @ rows.mT
    start, _ = equal_shares(matrix, torch.ones(20, number, dtype=torch.float64), 1.0)
    # With parts of a sum over what cannot be negative, every objective has a bound.
    parts = torch.rand(2, 20, number, generator=draw, dtype=torch.float64) ** 4
    linear = parts[0] + (matrix @ parts[1].unsqueeze(-1)).squeeze(-1)
    point, solved = _least_point(matrix, linear, start)
    assert solved.all()
    gains = point * (matrix @ point.unsqueeze(-1)).squeeze(-1)
    assert gains.min() >= 1 - 1e-9
    beside = point * (1 + 0.01 * torch.randn(200, 20, number, generator=draw, dtype=torch.float64))
    least = (beside * (matrix @ beside.unsqueeze(-1)).squeeze(-1)).amin(-1, keepdim=True)
    # Where gradients nearly cancel, some neighbours lie outside of the cone and cannot be scaled back.
    inside = (least > 0).squeeze(-1)
    assert inside.double().mean() > 0.9
    values = (beside / least.clamp(min=1e-300).sqrt() * linear).sum(-1) / (point * linear).sum(-1)
    assert values[inside].min() >= 1 - 1e-9


def test_a_step_of_nash_mtl_official_goes_on_from_the_last_one() -> None:
    """What it answers depends on the weights before; an absent task keeps its own."""
    gramian = gramians(traces_of("nash_mtl")[2])
    losses = torch.ones(5, dtype=torch.float64)
    fresh, used = (weighting.create("nash_mtl_official", 5) for _ in range(2))
    used.update(Observation(losses=losses, gramian=gramian[9]))
    before = used.state_dict()["last_weights"].clone()
    now = Observation(losses=losses, gramian=gramian[10])
    assert torch.equal(used.weights(now), before)
    assert not torch.allclose(fresh.weights(now), before, rtol=1e-3)
    used.update(Observation(losses=losses, gramian=gramian[4], counts=[1, 1, 0, 1, 1]))
    moved = used.state_dict()["last_weights"] != before
    assert moved.tolist() == [True, True, False, True, True]


def test_mgda_official_counts_the_steps_that_its_rounds_did_not_finish() -> None:
    gramian = gramians(traces_of("mgda")[2])[2]
    for rounds, taken in ((20, {"still_moving": 1}), (250, {})):
        weighter = weighting.create("mgda_official", 5, rounds=rounds)
        seen = Observation(losses=torch.ones(5, dtype=torch.float64), gramian=gramian)
        weighter.weights(seen)
        weighter.update(seen)
        assert weighter.guards_taken() == taken


def test_small_gradients_of_upgrad_torchjd_are_none() -> None:
    """Squared norms of 0.8e-4 and 0.4e-4 are 1.2e-4 together, and oppose each other; half of that counts as 0."""
    gramian = torch.tensor([[0.8e-4, -0.4e-4], [-0.4e-4, 0.4e-4]], dtype=torch.float64)
    weighter = weighting.create("upgrad_torchjd", 2)
    seen = [Observation(losses=torch.ones(2, dtype=torch.float64), gramian=share * gramian) for share in (1.0, 0.5)]
    assert weighter.weights(seen[0]).min() > 0.6
    assert weighter.weights(seen[1]).tolist() == [0.5, 0.5]


class CosinesIgnored(weighting.Weighter):
    """The gradients count as orthogonal."""

    def rule(self, seen: Gradients) -> Tensor:
        orthogonal = torch.eye(self.num_tasks, dtype=torch.float64).expand_as(seen.cosines)
        answer: Tensor = super().rule(replace(seen, cosines=orthogonal))  # type: ignore[misc]
        return answer


@pytest.mark.parametrize("group", OFFICIAL)
def test_the_replay_catches_a_fault(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred times the limit, not a hair's breadth."""
    how = OFFICIAL[group]
    fault = type("CosinesIgnored", (CosinesIgnored, weighting.METHODS[how.setting]), {"name": how.setting})
    monkeypatch.setitem(weighting.METHODS, how.setting, fault)
    assert max(largest_difference(how, trace, expected_of(how, trace)) for trace in traces_of(group)) > 100 * how.limit
