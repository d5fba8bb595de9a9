"""The suites that come with the project: one YAML file per question."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def suite_names() -> list[str]:
    """Their names, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
