"""Every listed method in every setting worth a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import weighting
from weighting import Weighter
from weighting.testing.settings import Subject, subjects_of

SUBJECTS = [subject for kind in weighting.METHODS.values() for subject in subjects_of(kind)]
SETTINGS: list[tuple[str, dict[str, Any]]] = [(subject.kind.name, subject.more) for subject in SUBJECTS]
SETTING_IDS = [subject.label for subject in SUBJECTS]


def marks(more: dict[str, Any]) -> list[pytest.MarkDecorator]:
    """The fast tests take each method in its default setting; those of all others are marked slow."""
    return [pytest.mark.slow] if more else []


every_subject = pytest.mark.parametrize(
    "subject", [pytest.param(subject, marks=marks(subject.more), id=subject.label) for subject in SUBJECTS]
)
every_setting = pytest.mark.parametrize(
    ("name", "more"), [pytest.param(each.kind.name, each.more, marks=marks(each.more), id=each.label) for each in SUBJECTS]
)


def make(name: str, num_tasks: int = 3, *, batch_shape: Sequence[int] = (), **more: Any) -> Weighter:
    """A listed method that shows all it can in a short run."""
    return Subject(weighting.METHODS[name], more).make(num_tasks, batch_shape=batch_shape)
