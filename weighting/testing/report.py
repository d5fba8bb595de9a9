"""All checks of a method, and what they told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from weighting import Claim, Weighter
from weighting.testing.claims import CHECKERS, generated_runs
from weighting.testing.contract import IN_EVERY_SETTING, ONCE
from weighting.testing.expectations import CannotTellError
from weighting.testing.settings import Subject, subjects_of

LONGEST = 300
"""Characters of a reason; what is longer is cut."""


@dataclass(frozen=True)
class Result:
    """What one check told in one setting."""

    name: str
    """Of the check, in words."""
    meaning: str
    """The property, in one line."""
    setting: str
    """What it was asked of: a method with its hyperparameters, a problem with its tasks."""
    message: str | None
    """Why it failed, in one line; None: it did not."""
    left_out: str | None = None
    """Why the check had nothing to look at, in one line; None: it had."""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the property."""
        return self.message is None


@dataclass(frozen=True)
class Report:
    """What all checks told."""

    subject: str
    """Who was checked, in one line."""
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that was checked holds."""
        return all(result.ok for result in self.results)

    def __str__(self) -> str:
        """A line for every check; of those that failed, the property and the reason in the first setting that broke it."""
        names = list(dict.fromkeys(result.name for result in self.results))
        width = max(map(len, names), default=0)
        lines, failed = [self.subject, ""], []
        for name in names:
            told = [result for result in self.results if result.name == name]
            broken = [result for result in told if not result.ok]
            lines.append(f"  {name:{width}}  {_state(told)}")
            for first in broken[:1]:
                lines += [f"      {first.meaning}", f"      {first.setting}: {first.message}"]
                failed.append(name)
        return "\n".join([*lines, "", f"failed: {', '.join(failed)}" if failed else "everything that was checked holds"])


def _state(told: Sequence[Result]) -> str:
    """Of all that one check told."""
    broken = sum(result.message is not None for result in told)
    left_out = sum(result.left_out is not None for result in told)
    if broken:
        return f"FAILED in {broken} of {len(told)}" if len(told) > 1 else "FAILED"
    if left_out == len(told):
        return f"left out: {told[0].left_out}"
    return f"ok ({len(told) - left_out})" if len(told) > 1 else "ok"


def check_weighter(kind: type[Weighter]) -> Report:
    """Every part of the contract and every claim of a method, listed or of one's own, in each setting worth a check.

    kind: the class. Its settings are the default one and every value of ``search``. Whatever the method raises is a result;
    nothing is raised here.
    """
    with one_thread():
        results = list(_results(kind))
    claims = ", ".join(claim.label for claim in kind.claims) or "none"
    return Report(f"{kind.name}: checks: {len(results)}; claims: {claims}", tuple(results))


def _results(kind: type[Weighter]) -> Iterator[Result]:
    try:
        subjects = subjects_of(kind)
        claims = [subject.make().claims for subject in subjects]
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a method of anybody's may raise anything
        meaning = "An instance of three tasks can be made, in every setting."
        yield Result("can be made", meaning, kind.name, reason(error))
        return
    yield from (ask(name, check, subjects[0], subjects[0].label) for name, check in ONCE.items())
    for name, check in IN_EVERY_SETTING.items():
        yield from (ask(name, check, subject, subject.label) for subject in subjects)
    for claim in Claim:
        yield from (
            _claimed(subject, claim) for subject, of_subject in zip(subjects, claims, strict=True) if claim in of_subject
        )


def _claimed(subject: Subject, claim: Claim) -> Result:
    checker = CHECKERS[claim]

    def check(asked: Subject) -> None:
        for num_tasks, shown, seed in generated_runs(claim):
            checker(lambda: asked.make(num_tasks), shown, seed)  # noqa: B023 - called before the next round

    check.__doc__ = checker.__doc__
    return ask(f"claim {claim.label}", check, subject, subject.label)


def ask(name: str, check: Callable[..., None], subject: object, setting: str) -> Result:
    """What one check tells; with the same random numbers whenever it is asked, and none of its own left behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            check(subject)
            message = left_out = None
        except CannotTellError as why:
            message, left_out = None, str(why)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever is raised is what the check found
            message, left_out = reason(error), None
    words = name if name.startswith("claim ") else name.replace("_", " ")
    return Result(words, first_line(check), setting, message, left_out)


def reason(error: BaseException) -> str:
    """An exception in one line; its type where the message alone says little."""
    words = " ".join(str(error).split())
    text = words if isinstance(error, AssertionError) and words else f"{type(error).__name__}: {words}".rstrip(": ")
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def first_line(check: Callable[..., object]) -> str:
    """What a check means."""
    return (check.__doc__ or "").strip().partition("\n")[0]


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors of a few numbers wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
