"""Making a method from its class and hyperparameters, with the general options that every method has."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from weighting._checks import check_choice
from weighting.contract import Weighter
from weighting.on_split import on_split

NOT_HYPERPARAMETERS = ("num_tasks", "batch_shape")
"""Arguments of every method besides its hyperparameters."""


def hyperparameters_of(kind: type[Weighter]) -> dict[str, object]:
    """Name -> default of every hyperparameter, the general ones last (``num_tasks`` and ``batch_shape`` are none)."""
    parameters = inspect.signature(kind.__init__).parameters
    own = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in ("self", *NOT_HYPERPARAMETERS) and parameter.kind is not parameter.VAR_KEYWORD
    }
    return {**own, "losses_from": kind.losses_from, "prior": None}


def build(kind: type[Weighter], num_tasks: int, **hyperparameters: Any) -> Weighter:
    """An instance of a method. Raises ValueError on an unknown hyperparameter, with the nearest known one."""
    known = hyperparameters_of(kind)
    for name in hyperparameters:
        if name not in known and name not in NOT_HYPERPARAMETERS:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{kind.name}: unknown hyperparameter {name!r}; {hint}known: {', '.join(known)}")
    losses_from, prior = hyperparameters.pop("losses_from", kind.losses_from), hyperparameters.pop("prior", None)
    check_choice(kind.name, "losses_from", losses_from, ("training", "validation"))
    weighter = on_split(kind(num_tasks, **hyperparameters), losses_from)
    if prior is not None:
        weighter.set_prior(prior)
    return weighter
