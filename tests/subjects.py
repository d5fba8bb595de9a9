"""The methods under test: all listed ones, or the one class given by ``pytest --weighter path/to/file.py:Class``."""

from __future__ import annotations

from typing import Any

import weighting
from benchmarks.catalog import weighter_class
from weighting import RunFacts, Weighter
from weighting.factory import build, hyperparameters_of

KINDS: dict[str, type[Weighter]] = dict(weighting.METHODS)
"""Name -> class of every method under test."""

SHORT = {"window": 6, "warmup": 3}
"""Values that let a listed method with this hyperparameter show all it can within thirty steps."""

SHORT_RUN = RunFacts(steps=30, steps_per_epoch=6, val_batches=3, seed=0)


def only(place: str) -> None:
    """Put one class, a listed name or ``path/to/file.py:Class``, in the place of all others. Raises UserError."""
    kind = weighter_class(place)
    KINDS.clear()
    KINDS[kind.name] = kind


def is_listed(kind: type[Weighter]) -> bool:
    return weighting.METHODS.get(kind.name) is kind


def one_alone() -> bool:
    """Whether a class was given."""
    return len(KINDS) == 1


def short(kind: type[Weighter], **more: Any) -> dict[str, Any]:
    """The hyperparameters with which a method shows all it can in a short run, and ``more``."""
    known = hyperparameters_of(kind)
    suited = (
        {key: value for key, value in SHORT.items() if key in known} if is_listed(kind) else kind.defaults_for(SHORT_RUN)
    )
    return {**suited, **more}


def create(name: str, num_tasks: int, **hyperparameters: Any) -> Weighter:
    """As ``weighting.create``, among the methods under test."""
    return build(KINDS[name], num_tasks, **hyperparameters)
