"""The settings of a method that are worth a check, and instances that show all they can in a short run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from weighting import METHODS, RunFacts, Weighter
from weighting._build import build, hyperparameters_of

SHORT = {"window": 6, "warmup": 3, "rounds": 2}
"""Values that let a listed method with this hyperparameter show all it can within thirty steps, and soon."""

SHORT_RUN = RunFacts(steps=30, steps_per_epoch=6, val_batches=3, seed=0)

NUM_TASKS = 3
"""Tasks of a check, unless it says otherwise."""

VALIDATION: dict[str, Any] = {"losses_from": "validation"}

FURTHER: dict[str, list[dict[str, Any]]] = {
    "static": [{"weights": [0.5, 0.0, 2.5]}],
    "random": [{"seed": 7}],
    "gradnorm": [
        {"optimizer": "sgd", "lr": 0.003, "alpha": 0.5},
        {"initial_steps": 4},
        {"floor": 0},
        VALIDATION,
    ],
    "gradnorm_libmtl": [{"initial_steps": 5, "weight_decay": 0.01}],
    "dwa": [{"temperature": 0.5, "window": 1}, VALIDATION],
    "uncertainty": [
        {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, "initial_log_variance": -0.5},
        VALIDATION,
    ],
    "uncertainty_liebel": [{"optimizer": "sgd", "lr": 0.01, "initial_log_variance": -0.5}],
    "gls": [VALIDATION],
    "scale_invariant": [VALIDATION],
    "imtl_l": [{"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, "initial_log_scale": -0.5}],
    "lbtw": [{"alpha": 1.0, "restart_every": 4}, VALIDATION],
    "lbtw_official": [{"restart_every": 4}],
    "stch": [{"mu": 0.2, "warmup": 0, "window": 1}, VALIDATION],
    "cov_weighting": [{"decay": 0.9}, VALIDATION],
    "softadapt": [
        {"variant": "loss_weighted", "beta": 1.0, "order": 1},
        {"variant": "normalized", "order": 2},
        {"beta": -0.5, "order": 1, **VALIDATION},
    ],
    "relobralo": [{"alpha": 0.9, "rho": 0.5, "temperature": 1.0, "seed": 7}, VALIDATION],
    "famo": [{"lookahead": "next_batch"}, {"gamma": 0.01}, VALIDATION, {"lookahead": "next_batch", **VALIDATION}],
    "coba": [
        {"warmup": 0, "tau": 0.5},
        {"update_every": 3, "window": 9},
        {"losses_from": "training"},
    ],
    "coba_mftcoder": [{"update_every": 2, "warmup": 6}],
    "coba_absolute": [{"update_every": 2}],
    "coba_fixed_mix": [{"mix": 0.3}],
    "pcgrad": [{"seed": 7}],
    "gradvac": [{"beta": 0.5}],
    "cagrad": [{"c": 0.0}, {"c": 0.8}],
    "aligned_mtl": [{"scale": "median"}, {"scale": "rmse"}],
    "fairgrad": [{"alpha": 0.5}, {"alpha": 2.0}],
    "metaweighting": [{"constraint": "softmax"}, {"constraint": "none"}, {"lr": 1.0}],
}
"""Settings of a listed method, besides the default ones, that take another path through its code. Three tasks."""


def is_listed(kind: type[Weighter]) -> bool:
    """Whether the class is the one that its name is listed for."""
    return METHODS.get(getattr(kind, "name", "")) is kind


def short(kind: type[Weighter], **more: Any) -> dict[str, Any]:
    """The hyperparameters with which a method shows all it can in a short run, and ``more``."""
    known = hyperparameters_of(kind)
    suited = (
        {key: value for key, value in SHORT.items() if key in known} if is_listed(kind) else kind.defaults_for(SHORT_RUN)
    )
    return {**suited, **more}


OF_EVERY_METHOD = ("clock", "guard_counts", "prior")
"""Buffers that are there whatever the method remembers."""
FEW_STEPS = 4
"""In which a method that remembers nothing shows all it can."""


@dataclass(frozen=True)
class Subject:
    """A method in one setting: what a check makes instances of."""

    kind: type[Weighter]
    more: dict[str, Any] = field(default_factory=dict)
    """Hyperparameters besides those of a short run. Lists are for three tasks, and left out with another number."""

    @property
    def label(self) -> str:
        """The setting as reports show it."""
        return f"{self.kind.name}({', '.join(f'{key}={value}' for key, value in self.more.items())})"

    def steps(self, number: int) -> int:
        """So many, or a few where the method remembers nothing and no later step is another than the first."""
        remembers = any(name not in OF_EVERY_METHOD for name, _ in self.make().named_buffers())
        return number if remembers else min(number, FEW_STEPS)

    def make(self, num_tasks: int = NUM_TASKS, *, batch_shape: Sequence[int] = (), **further: Any) -> Weighter:
        """A new instance."""
        lists = () if num_tasks == NUM_TASKS else (list, tuple)
        more = {key: value for key, value in self.more.items() if not isinstance(value, lists)}
        return build(self.kind, num_tasks, batch_shape=batch_shape, **{**short(self.kind, **more), **further})


def subjects_of(kind: type[Weighter]) -> list[Subject]:
    """The default setting first; of a listed method those of ``FURTHER``, of another every value that it wants searched."""
    if is_listed(kind):
        more = FURTHER.get(kind.name, [])
    else:
        more = [{key: value} for key, values in kind.search.items() for value in values]
    return [Subject(kind), *(Subject(kind, each) for each in more)]
