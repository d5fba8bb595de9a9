"""Many questions in one test."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def ask_all(subject: str, questions: Iterable[tuple[str, Callable[[], object]]]) -> None:
    """Ask every question, whatever the others answered; what failed is raised together, each with its name."""
    failed: list[Exception] = []
    for name, question in questions:
        try:
            question()
        except Exception as error:  # noqa: BLE001 - raised below, with all others
            error.add_note(f"asked of {subject}: {name}")
            failed.append(error)
    if failed:
        names = ", ".join(error.__notes__[-1].rpartition(": ")[2] for error in failed)
        raise ExceptionGroup(f"{subject}: {names}", failed)
