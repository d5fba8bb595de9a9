"""What records before form 3 call methods and hyperparameters, in today's words. The numbers are the same under both.

Until then a variant was a value of the hyperparameter ``variant``, an ablation of CoBa one of ``components`` or ``history``,
and ``losses_from`` was called ``feedback``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

VARIANTS = {
    "gradnorm": {"libmtl": "gradnorm_libmtl"},
    "dwa": {"nash_mtl": "dwa_nash_mtl"},
    "lbtw": {"official": "lbtw_official"},
    "coba": {"mftcoder": "coba_mftcoder"},
}
"""Method -> value of ``variant`` -> its name today; the other value was "paper"."""

ABLATIONS = {
    "components": {"relative": "coba_relative", "absolute": "coba_absolute", "fixed_mix": "coba_fixed_mix"},
    "history": {"from_start": "coba_from_start"},
}
"""Hyperparameter of CoBa -> value -> name today; the other values were the rule itself."""

WITHOUT_EFFECT = {"gradnorm_libmtl": ("floor",), **dict.fromkeys(("coba", "coba_mftcoder"), ("mix",))}
WITHOUT_EFFECT |= dict.fromkeys(("coba_relative", "coba_absolute", "coba_from_start"), ("mix",))
"""Name today -> hyperparameters that it was recorded with and never read."""


def weighter_today(name: str, hyperparameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and hyperparameters as they are called today.

    Raises ValueError where variant and ablations were combined: no method of today is that.
    """
    values = {"losses_from" if key == "feedback" else key: value for key, value in hyperparameters.items()}
    if name not in VARIANTS:
        return name, values
    chosen = [VARIANTS[name].get(values.pop("variant", ""))]
    if name == "coba":
        chosen += [names.get(values.pop(key, "")) for key, names in ABLATIONS.items()]
    found = [each for each in chosen if each is not None]
    if len(found) > 1:
        raise ValueError(f"expected one variant of {name}, which has a name today, found {' and '.join(found)}")
    today = found[0] if found else name
    return today, {key: value for key, value in values.items() if key not in WITHOUT_EFFECT.get(today, ())}


def label_today(label: str) -> str:
    """``coba[variant=mftcoder, tau=2]`` as it is called today; labels of another form stay. Raises as ``weighter_today``."""
    name, parts = _parts(label)
    return _joined(*weighter_today(name, parts)) if parts else label


def rename(content: dict[str, Any]) -> None:
    """A record, as JSON, in today's words; in place. Raises as ``weighter_today``."""
    weighter = content["run"]["weighter"]
    before = weighter["name"]
    name, hyperparameters = weighter_today(before, weighter["hyperparameters"])
    label, parts = _parts(weighter["label"])
    if label == before:
        # Its label says no more than what differed in its suite; what it is, its hyperparameters say.
        renamed = {"losses_from" if key == "feedback" else key: value for key, value in parts.items()}
        weighter["label"] = _joined(name, {key: value for key, value in renamed.items() if key in hyperparameters})
    else:
        weighter["label"] = label_today(weighter["label"])
    weighter |= {"name": name, "hyperparameters": hyperparameters}
    content["resolved"] = weighter_today(before, content["resolved"])[1]


def _parts(label: str) -> tuple[str, dict[str, str]]:
    """``coba`` and {tau: 2} of ``coba[tau=2]``; the whole label and nothing of one of another form."""
    name, _, inner = label.partition("[")
    # Values may be lists, with commas of their own.
    parts = [part.partition("=") for part in re.split(r", (?=\w+=)", inner.removesuffix("]"))]
    if not inner.endswith("]") or not all(equals for _, equals, _ in parts):
        return label, {}
    return name, {key: value for key, _, value in parts}


def _joined(name: str, parts: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key}={value}" for key, value in parts.items())
    return f"{name}[{shown}]" if shown else name
