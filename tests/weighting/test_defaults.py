"""Every default of every method, with where it comes from: a changed one is seen, and so is a new one without a source."""

from __future__ import annotations

from typing import Any

import pytest

import weighting
from weighting._build import hyperparameters_of

OURS = "this project's choice, on the method's page; nothing published is known"
FACT = "the rule itself"

GRADNORM: dict[str, tuple[Any, str]] = {
    "alpha": (1.5, "arXiv:1711.02257: about 1.5 for images; LibMTL's default (tests/traces/README.md)"),
    "lr": (0.025, "arXiv:1711.02257: weight learning rate 0.025"),
    "optimizer": ("adam", "arXiv:1711.02257: Adam"),
    "weight_decay": (0.0, OURS),
    "floor": (1e-3, "results/reference/reproduce_gradnorm: the paper's figure is met with it and not without"),
    "initial_steps": (0, "arXiv:1711.02257: the initial loss"),
}

DWA: dict[str, tuple[Any, str]] = {
    "temperature": (2.0, "arXiv:1803.10704, section 4.1.3: T = 2"),
    "window": (100, OURS),
}

LBTW: dict[str, tuple[Any, str]] = {
    "alpha": (0.5, OURS),
    "restart_every": (0, FACT),
}

COBA: dict[str, tuple[Any, str]] = {
    "warmup": (100, "codefuse-ai/MFTCoder@8ba13f4, its configuration"),
    "window": (500, "codefuse-ai/MFTCoder@8ba13f4, its notes: two to five times the warm-up; five, see the ablation"),
    "tau": (5.0, "codefuse-ai/MFTCoder@8ba13f4, its configuration"),
    "update_every": (1, "codefuse-ai/MFTCoder@8ba13f4, its configuration"),
}

UNCERTAINTY: dict[str, tuple[Any, str]] = {
    "lr": (0.025, "the experiments of AvivNavon/nash-mtl and of FAMO"),
    "optimizer": ("adam", OURS),
    "momentum": (0.0, OURS),
    "weight_decay": (0.0, OURS),
    "initial_log_variance": (0.0, OURS),
}

DEFAULTS: dict[str, dict[str, tuple[Any, str]]] = {
    "uniform": {},
    "token_mean": {},
    "static": {"weights": (None, FACT)},
    "random": {"seed": (0, OURS)},
    "gradnorm": GRADNORM,
    "gradnorm_libmtl": {name: value for name, value in GRADNORM.items() if name != "floor"},
    "dwa": DWA,
    "dwa_nash_mtl": DWA,
    "uncertainty": UNCERTAINTY,
    "uncertainty_liebel": UNCERTAINTY,
    "gls": {},
    "scale_invariant": {},
    "log_transform": {},
    "stch": {
        "mu": (1.0, "LibMTL's default, and that of the authors' code in it"),
        "warmup": (400, "LibMTL's default: four epochs; of a hundred steps, this project's choice"),
        "window": (100, "Xi-L/STCH@a510c1e: one epoch; of a hundred steps, this project's choice"),
    },
    "imtl_l": {
        "lr": (1e-3, OURS),
        "optimizer": ("adam", OURS),
        "momentum": (0.0, OURS),
        "weight_decay": (0.0, OURS),
        "initial_log_scale": (0.0, OURS),
    },
    "lbtw": LBTW,
    "lbtw_official": LBTW,
    "cov_weighting": {"decay": (1.0, "rickgroen/cov-weighting@64c2966: the mean over all steps")},
    "softadapt": {
        "variant": ("original", "arXiv:1912.12355, section 3.1.1"),
        "beta": (0.1, "dr-aheydari/SoftAdapt@66e7bd6"),
        "order": (4, "dr-aheydari/SoftAdapt@66e7bd6: one less than the points, of which its examples have five"),
    },
    "relobralo": {
        "alpha": (0.999, "public copies of the authors' class; tests/traces/relobralo-01-k3-T0.1.json"),
        "temperature": (0.1, "public copies of the authors' class; tests/traces/relobralo-01-k3-T0.1.json"),
        "rho": (0.99, "public copies of the authors' class; tests/traces/relobralo-01-k3-T0.1.json"),
        "seed": (0, OURS),
    },
    "famo": {
        "lr": (0.025, "arXiv:2306.03792: weight learning rate 0.025"),
        "gamma": (1e-3, "arXiv:2306.03792: one of 1e-4, 1e-3, 1e-2; LibMTL's default"),
        "min_losses": (0.0, FACT),
        "lookahead": ("same_batch", FACT),
    },
    "coba": COBA,
    "coba_mftcoder": COBA,
    "coba_relative": COBA,
    "coba_absolute": COBA,
    "mgda": {},
    "mgda_official": {"rounds": (250, "isl-org/MultiObjectiveOptimization@bf5bbb3: named there, and never counted")},
    "pcgrad": {"seed": (0, OURS)},
    "gradvac": {"beta": (0.01, "arXiv:2010.05874, as torchjd and LibMTL have it"), "seed": (0, OURS)},
    "imtl_g": {},
    "cagrad": {"c": (0.4, "Cranial-XIX/CAGrad@dc3d481, nyuv2 and cityscapes")},
    "nash_mtl": {},
    "nash_mtl_official": {"rounds": (20, "AvivNavon/nash-mtl@cce1840")},
    "aligned_mtl": {"scale": ("min", "SamsungLabs/MTL@3f577f1")},
    "fairgrad": {"alpha": (1.0, "OptMN-Lab/fairgrad@2b8cba1, as LibMTL and torchjd have it")},
    "upgrad": {},
    "upgrad_torchjd": {},
    "db_mtl": {},
    "metaweighting": {"lr": (0.025, OURS), "constraint": ("simplex", OURS)},
    "coba_fixed_mix": {**COBA, "mix": (0.5, OURS)},
    "coba_from_start": COBA,
}


@pytest.mark.parametrize("name", weighting.names())
def test_defaults_are_those_of_their_sources(name: str) -> None:
    found = {key: value for key, value in hyperparameters_of(weighting.METHODS[name]).items() if key not in GENERAL}
    pinned = {key: value for key, (value, _) in DEFAULTS[name].items()}
    assert {key: (type(value), value) for key, value in found.items()} == {
        key: (type(value), value) for key, value in pinned.items()
    }


GENERAL = {"losses_from": {"coba": "validation"}, "prior": {}}


@pytest.mark.parametrize("name", weighting.names())
def test_general_defaults(name: str) -> None:
    known = hyperparameters_of(weighting.METHODS[name])
    assert known["losses_from"] == GENERAL["losses_from"].get(weighting.family(name), "training")
    assert known["prior"] is None


def test_every_method_is_pinned_and_every_default_has_a_source() -> None:
    assert set(DEFAULTS) == set(weighting.names())
    assert all(source for pinned in DEFAULTS.values() for _, source in pinned.values())
