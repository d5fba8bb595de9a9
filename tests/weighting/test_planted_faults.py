"""Listed methods with one line wrong, as a maintainer might break them: the replay of a trace names the method."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from places import TESTS
from replays import REPLAYS, Trace, expected_of, files, group_of, largest_difference
from torch import Tensor

import weighting
from benchmarks.regression.planted import RatioUpsideDown, SlopeFlipped, TenTimesTooFast
from weighting import Observation, Weighter
from weighting._gramian import Gradients
from weighting._windows import TrendWindow
from weighting.coba import CoBa
from weighting.coba_mftcoder import CoBaMFTCoder
from weighting.cov_weighting import VariationWeighting
from weighting.dwa_nash_mtl import SlidingWeightAverage
from weighting.gls import GeometricLoss
from weighting.gradnorm import GradNorm
from weighting.gradnorm_libmtl import SoftmaxGradNorm
from weighting.imtl_l import ImpartialLoss
from weighting.relobralo import RelativeBalancing
from weighting.softadapt import SoftAdapt
from weighting.stch import SmoothTchebycheff
from weighting.uncertainty import UncertaintyWeighting


class SlopeFlippedAsInMFTCoder(SlopeFlipped, CoBaMFTCoder):
    """The same in the variant."""


class WindowOffByOne(CoBa):
    """One record too many."""

    def start(self, first: Observation) -> None:
        assert isinstance(self.ratios, TrendWindow)
        self.ratios = TrendWindow(self.shape, self.ratios.length + 1)
        super().start(first)


class WindowOffByOneAsInMFTCoder(WindowOffByOne, CoBaMFTCoder):
    """The same in the variant."""


class SlidingRatioUpsideDown(SlidingWeightAverage):
    """The older window by the newer."""

    def _ratio(self, past: Tensor) -> Tensor:
        return 1 / super()._ratio(past)


class TasksInTheWrongOrder(GeometricLoss):
    """Every task gets its neighbour's weight."""

    def weights(self, now: Observation) -> Tensor:
        return super().weights(now).roll(1, -1)


class InitialLossOverwritten(GradNorm):
    """L(0) is the loss of the step before."""

    def _remember(self, losses: Tensor, present: Tensor) -> None:
        self.initial_losses.copy_(losses)


class SoftmaxInitialLossOverwritten(InitialLossOverwritten, SoftmaxGradNorm):
    """The same in the variant."""


class WithoutTheHalf(UncertaintyWeighting):
    """exp(-s), twice the coefficient."""

    def weights(self, now: Observation) -> Tensor:
        return 2 * super().weights(now)


class NeverLearns(ImpartialLoss):
    """No update."""

    def update(self, after: Observation) -> None:
        pass


class WithoutReference(SmoothTchebycheff):
    """The reference stays unknown."""

    def update(self, after: Observation) -> None:
        self.steps.add_(1)


class DeviationForVariation(VariationWeighting):
    """The standard deviation, not divided by the mean."""

    def _variation(self) -> Tensor:
        return super()._variation() * self.mean_ratio


class FallForSlope(SoftAdapt):
    """Slopes with the sign flipped."""

    def _slopes(self, past: Tensor) -> Tensor:
        return -super()._slopes(past)


class LookbackOfOneStep(RelativeBalancing):
    """The initial losses are those of the step before."""

    def _remember_initial(self, losses: Tensor, present: Tensor) -> None:
        self.initial_losses.copy_(losses)


class CosinesIgnored(Weighter):
    """The gradients count as orthogonal."""

    def rule(self, seen: Gradients) -> Tensor:
        orthogonal = torch.eye(self.num_tasks, dtype=torch.float64).expand_as(seen.cosines)
        answer: Tensor = super().rule(replace(seen, cosines=orthogonal))  # type: ignore[misc]
        return answer


ON_GRAMIAN = ("mgda", "pcgrad", "gradvac", "imtl_g", "cagrad", "nash_mtl", "aligned_mtl", "fairgrad", "upgrad")


def cosines_ignored(name: str) -> type[Weighter]:
    """The listed method with the fault."""
    return type("CosinesIgnored", (CosinesIgnored, weighting.METHODS[name]), {"name": name})


FAULTS: list[tuple[type[Weighter], str]] = [
    (SlopeFlipped, "coba_paper"),
    (SlopeFlippedAsInMFTCoder, "coba_official"),
    (WindowOffByOne, "coba_paper"),
    (WindowOffByOneAsInMFTCoder, "coba_official"),
    (RatioUpsideDown, "dwa_libmtl"),
    (SlidingRatioUpsideDown, "dwa_nashmtl"),
    (TasksInTheWrongOrder, "gls_libmtl"),
    (InitialLossOverwritten, "gradnorm_paper"),
    (SoftmaxInitialLossOverwritten, "gradnorm_libmtl"),
    (TenTimesTooFast, "famo_official"),
    (WithoutTheHalf, "uw_nashmtl"),
    (NeverLearns, "imtl_l_libmtl"),
    (WithoutReference, "stch"),
    (DeviationForVariation, "cov_weighting"),
    (FallForSlope, "softadapt"),
    (LookbackOfOneStep, "relobralo"),
    *((cosines_ignored(name), name) for name in ON_GRAMIAN),
]


def trace_of(group: str) -> Trace:
    """The first of the group; of the methods on the Gramian one with more than two tasks, whose cosines matter to all."""
    paths = [path for path in files(TESTS / "traces") if group_of(path) == group]
    path = paths[1 if group in ON_GRAMIAN else 0]
    trace: Trace = json.loads(path.read_text(encoding="utf-8"))
    return trace


@pytest.mark.parametrize(("fault", "group"), FAULTS, ids=[f"{kind.__name__}-{group}" for kind, group in FAULTS])
def test_the_replay_catches_the_fault(fault: type[Weighter], group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred times the limit, not a hair's breadth; and the method as it is passes."""
    replay, trace = REPLAYS[group], trace_of(group)
    expected = expected_of(replay, trace)
    assert largest_difference(replay, trace, expected) <= replay.limit
    monkeypatch.setitem(weighting.METHODS, fault.name, fault)
    assert largest_difference(replay, trace, expected) > 100 * replay.limit


def test_every_traced_method_has_a_planted_fault() -> None:
    # The buffer is no method, and has tests of its own.
    traced = {replay.setting for replay in REPLAYS.values()} - {"db_mtl with its buffer"}
    assert {fault.name for fault, _ in FAULTS} == traced
