"""Loss weighting for multi-task learning: K raw losses in, K coefficients out.

``create(name, num_tasks, **hyperparameters)`` makes a method by its name; ``names()`` lists them. The contract is in
``weighting.contract``; each method is a file of its own.
"""

from __future__ import annotations

import difflib
from typing import Any

from weighting._build import build
from weighting._citations import citations
from weighting.aligned_mtl import AlignedComponents
from weighting.cagrad import ConflictAverse
from weighting.claim import Claim
from weighting.coba import CoBa
from weighting.coba_ablations import CoBaAbsolute, CoBaFixedMix, CoBaFromStart, CoBaRelative
from weighting.coba_mftcoder import CoBaMFTCoder
from weighting.contract import Weighter
from weighting.cov_weighting import VariationWeighting
from weighting.db_mtl import DualBalancing
from weighting.dwa import DynamicWeightAverage
from weighting.dwa_nash_mtl import SlidingWeightAverage
from weighting.fairgrad import FairGradient
from weighting.famo import Famo
from weighting.gls import GeometricLoss
from weighting.gradients import gradient_norms
from weighting.gradnorm import GradNorm
from weighting.gradnorm_libmtl import SoftmaxGradNorm
from weighting.gradvac import GradientVaccine
from weighting.imtl_g import ImpartialGradient
from weighting.imtl_l import ImpartialLoss
from weighting.integration_check import IntegrationReport, check_integration
from weighting.jacobians import Jacobian, apply, gramian, jacobian
from weighting.lbtw import LossBalanced
from weighting.lbtw_official import RescaledLossBalanced
from weighting.log_transform import LogTransform
from weighting.losses import TaskLosses, total
from weighting.metaweighting import MetaWeighting
from weighting.mgda import MinimumNorm
from weighting.mgda_official import ProjectedMinimumNorm
from weighting.micro_batches import MicroBatches
from weighting.nash_mtl import NashBargaining
from weighting.nash_mtl_official import ChainedBargaining
from weighting.observation import Needs, Observation, RunFacts
from weighting.pcgrad import ProjectedConflicts
from weighting.random import RandomLossWeighting
from weighting.relobralo import RelativeBalancing
from weighting.replaying import replay
from weighting.scale_invariant import ScaleInvariant
from weighting.softadapt import SoftAdapt
from weighting.static import Static
from weighting.stch import SmoothTchebycheff
from weighting.step import WeightedStep
from weighting.token_mean import TokenMean
from weighting.uncertainty import UncertaintyWeighting
from weighting.uncertainty_liebel import RegularizedUncertainty
from weighting.uniform import Uniform
from weighting.upgrad import Unconflicting
from weighting.upgrad_torchjd import RegularizedUnconflicting
from weighting.validation import ValidationFeed

__all__ = [
    "METHODS",
    "Claim",
    "IntegrationReport",
    "Jacobian",
    "MicroBatches",
    "Needs",
    "Observation",
    "RunFacts",
    "TaskLosses",
    "ValidationFeed",
    "WeightedStep",
    "Weighter",
    "__version__",
    "apply",
    "check_integration",
    "citation",
    "create",
    "family",
    "gradient_norms",
    "gramian",
    "jacobian",
    "method",
    "names",
    "replay",
    "total",
]

__version__ = "0.3.0"

METHODS: dict[str, type[Weighter]] = {
    kind.name: kind
    for kind in (
        Uniform,
        Static,
        TokenMean,
        RandomLossWeighting,
        GradNorm,
        SoftmaxGradNorm,
        DynamicWeightAverage,
        SlidingWeightAverage,
        UncertaintyWeighting,
        RegularizedUncertainty,
        GeometricLoss,
        ScaleInvariant,
        LogTransform,
        SmoothTchebycheff,
        ImpartialLoss,
        LossBalanced,
        RescaledLossBalanced,
        VariationWeighting,
        SoftAdapt,
        RelativeBalancing,
        Famo,
        CoBa,
        CoBaMFTCoder,
        CoBaRelative,
        CoBaAbsolute,
        CoBaFixedMix,
        CoBaFromStart,
        MinimumNorm,
        ProjectedMinimumNorm,
        ProjectedConflicts,
        GradientVaccine,
        ImpartialGradient,
        ConflictAverse,
        NashBargaining,
        ChainedBargaining,
        AlignedComponents,
        FairGradient,
        Unconflicting,
        RegularizedUnconflicting,
        DualBalancing,
        MetaWeighting,
    )
}
"""Name -> class of every method and variant, in the order of tables."""


def names() -> list[str]:
    """The names of all methods, in the order of tables."""
    return list(METHODS)


def family(name: str) -> str:
    """The method that a listed variant is a reading of; any other name itself."""
    return (METHODS[name].variant_of or name) if name in METHODS else name


def method(name: str) -> type[Weighter]:
    """The class of a method. Raises ValueError with the nearest known name."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown weighter {name!r}; {hint}known: {', '.join(METHODS)}")
    return METHODS[name]


def citation(name: str) -> str:
    """BibTeX of the paper behind a method; of a variant, that of its method. Raises ValueError as ``method``.

    >>> print(citation("coba").splitlines()[0])
    @inproceedings{gong2024coba,
    """
    return citations()[family(method(name).name)]


def create(name: str, num_tasks: int, **hyperparameters: Any) -> Weighter:
    """A new method by name, with the paper's defaults where no hyperparameter is given.

    Every method accepts ``batch_shape``; ``losses_from="training" | "validation"``, the split whose losses it learns from;
    and ``prior``, K constants (or one) that multiply its weights. Raises ValueError on an unknown name or hyperparameter, or
    a value out of range.
    """
    return build(method(name), num_tasks, **hyperparameters)
