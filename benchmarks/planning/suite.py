"""A suite: one question, as a YAML file, checked on reading. Every mistake is one line with the file, line and place.

::

    question: Which weighting should I use?     # printed above the plan
    seeds: [0, 1, 2]                            # paired: the same initial parameters and batches for every weighter
    training: {probes: true}                    # changes to the training settings of every problem: see ``Training``
    problems:
      - multidigits                             # a listed name, path/to/file.py:Class or package.module:Class
      - name: code_lm
        options: {sequence_length: 64}          # arguments of the problem
        training: {steps: 300}                  # changes for this problem
        seeds: [0]                              # instead of the suite's
        weighters: [uniform, famo]              # instead of the suite's
        hyperparameters:                        # changes for this problem to the weighters named
          static: {weights: [1, 1, 1, 1, 2]}
        tune: {...}                             # instead of the suite's
    weighters:
      - uniform
      - {name: coba, tau: [2, 5]}               # a list is a grid: one run for each value
      - {name: famo, prior: {left: 20}}         # constants that multiply any method's weights: by task, 1 for the others,
                                                # or [20, 1, 1] in the order of the tasks; a list of these is a grid
    tune:                                       # methods and single tasks also at their best: see ``follow_up``
      learning_rates: [3e-4, 1e-3, 3e-3]        # the defaults are tried at each, and at the problem's own learning rate
      trials: 16                                # for each; the rest between these rates and over the search space
      seed: 100                                 # of the trials, none of the seeds above
      search: {coba: {window: [100, 500]}}      # instead of the method's own search space
      leave_out: [metaweighting]                # not tuned: compared at its defaults alone
    controls:
      simplex: 15                               # static weights over the simplex, at most so many, for a Pareto front
      frozen: true                              # each adaptive method again with its time-averaged weights held fixed

Uniform weights, random weights and one single-task run per task are part of every comparison and need not be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from benchmarks.errors import UserError, unknown
from benchmarks.planning.yaml_file import YamlFile, read_yaml
from benchmarks.suites import FOLDER, suite_names


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class WeighterEntry(BaseModel):
    """A weighter with its hyperparameters: single values, or lists of values as a grid."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


Weighters = Annotated[list[Annotated[WeighterEntry, BeforeValidator(_named)]], Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Tune(_Entry):
    """Trials from which every method's best setting is chosen."""

    learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    trials: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)]
    search: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]] = {}
    """Weighter -> hyperparameter -> values, instead of the method's own search space."""
    leave_out: list[str] = []
    """Weighters that are compared at their defaults alone."""


class ProblemEntry(_Entry):
    """A problem with what the suite changes for it."""

    name: str
    options: dict[str, Any] = {}
    training: dict[str, Any] = {}
    seeds: Seeds | None = None
    weighters: Weighters | None = None
    hyperparameters: dict[str, dict[str, Any]] = {}
    tune: Tune | None = None


class Controls(_Entry):
    """Runs that show what the methods add to constants."""

    simplex: Annotated[int, Field(ge=2)] | None = None
    frozen: bool = False


class Suite(_Entry):
    """A whole suite, as read."""

    question: str = ""
    seeds: Seeds
    training: dict[str, Any] = {}
    problems: Annotated[list[Annotated[ProblemEntry, BeforeValidator(_named)]], Field(min_length=1)]
    weighters: Weighters
    tune: Tune | None = None
    controls: Controls = Controls()

    @property
    def names(self) -> set[str]:
        """Of all problems and weighters."""
        lists = [self.weighters, *(problem.weighters or [] for problem in self.problems)]
        return {problem.name for problem in self.problems} | {entry.name for entries in lists for entry in entries}


class SuiteFile:
    """A suite together with where it was read, so that later checks can name the place of a mistake."""

    def __init__(self, file: YamlFile, suite: Suite) -> None:
        self.path, self.suite, self._file = file.path, suite, file
        self.name = file.path.stem

    @property
    def is_here(self) -> bool:
        """Whether the file lies in the folder from which the command is called, or below."""
        return self.path.resolve().is_relative_to(Path.cwd())

    def error(self, place: Sequence[str | int], message: str) -> UserError:
        """A UserError that begins with the file, the line and the place."""
        return UserError(f"{self._file.where(place)}: {message}")


def read_suite(name: str) -> SuiteFile:
    """Read a suite by name or by the path of a YAML file. Raises UserError."""
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else FOLDER / f"{name}.yaml"
    if not is_path and not path.is_file():
        raise UserError(unknown("suite", name, suite_names()) + " (or the path of a .yaml file)")
    file = read_yaml(path, "seeds, problems and weighters")
    try:
        return SuiteFile(file, Suite.model_validate(file.content))
    except ValidationError as error:
        place, message = explain(error, _fields_at)
        raise UserError(f"{file.where(place)}: {message}") from error


def explain(error: ValidationError, known: Any = None) -> tuple[list[str | int], str]:
    """The place and the sentence of the first mistake that pydantic found."""
    first = error.errors()[0]
    place = [part for part in first["loc"] if isinstance(part, int) or "[" not in part]
    if first["type"] == "extra_forbidden":
        names = known(place) if known else []
        return place, unknown("key", place[-1], names)
    if first["type"] == "missing":
        return place[:-1], f"expected the key {place[-1]!r}, found none"
    if first["type"] == "too_short":
        return place, f"expected at least {first['ctx']['min_length']} of them, found {first['input']!r}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return place, f"expected {message[0].lower()}{message[1:]}, found {first['input']!r}"


def _fields_at(place: Sequence[str | int]) -> list[str]:
    model = ProblemEntry if len(place) >= 2 and place[0] == "problems" else Suite
    return list(model.model_fields)
