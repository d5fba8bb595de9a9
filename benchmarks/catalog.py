"""From names to classes: the listed problems and weighters, and those of the user's own.

A class of the user's own is named ``path/to/file.py:ClassName`` or ``package.module:ClassName``. To look it up is to run its
code, so a command loads only those that its user has named: see ``code_of_the_user``.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.contract import Problem, Training
from benchmarks.errors import UserError, one_line, unknown
from benchmarks.problems import LISTED
from weighting import METHODS, RunFacts, Weighter
from weighting._build import hyperparameters_of

ADDED_LATER = ("probes", "validation_batches", "warmup_steps", "patience")
"""Training settings that are younger than the first keys: at their default they are in no key, whatever the problem."""
AUTO = "auto"
"""Stands in the plan for a default that the run's facts decide."""

_trusted: set[str] | None = None
"""The classes of the user's own that may be loaded; None: all."""


@contextlib.contextmanager
def code_of_the_user(*, everybodys: bool = False) -> Iterator[None]:
    """Within, a class is loaded only after ``trust`` has named it, unless ``everybodys`` code may run.

    Names come from suites and from records, which may have come from strangers.
    """
    global _trusted
    before, _trusted = _trusted, None if everybodys else set()
    try:
        yield
    finally:
        _trusted = before


def trust(names: Iterable[str]) -> None:
    """Let classes be loaded from now on."""
    if _trusted is not None:
        _trusted.update(names)


def _check_trusted(name: str) -> None:
    if _trusted is not None and name not in _trusted:
        raise UserError(f"{name}: expected code named by a suite in this folder, found it named elsewhere; --trust runs it")


def problem_class(name: str) -> type[Problem]:
    """The class of a listed problem or one of the user's own. Raises UserError."""
    if name in LISTED:
        return _problem(LISTED[name])
    if ":" not in name:
        raise UserError(unknown("problem", name, LISTED))
    _check_trusted(name)
    return _problem(name)


def weighter_class(name: str) -> type[Weighter]:
    """The class of a listed method or one of the user's own. Raises UserError."""
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise UserError(unknown("weighter", name, METHODS))
    _check_trusted(name)
    found: type[Weighter] = _load(name, Weighter)
    return found


@dataclass(frozen=True)
class Defaults:
    """Of a problem and a method; empty, but for ``ADDED_LATER``, where a class cannot be had."""

    options: Mapping[str, Any]
    training: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]


def defaults_of(problem: str, weighter: str) -> Defaults:
    """Every setting's default for a problem under a method, by their names."""
    options: Mapping[str, Any] = {}
    training: Mapping[str, Any] = {name: Training.model_fields[name].default for name in ADDED_LATER}
    hyperparameters: Mapping[str, Any] = {}
    with contextlib.suppress(UserError):
        kind = problem_class(problem)
        options, training = option_defaults(kind), kind.training.model_dump(mode="json")
    with contextlib.suppress(UserError):
        hyperparameters = hyperparameter_defaults(weighter_class(weighter))
    return Defaults(options, training, hyperparameters)


def option_defaults(kind: type[Problem]) -> dict[str, Any]:
    """Option -> default of a problem, ``tasks`` left out; ``inspect.Parameter.empty`` where there is none."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name not in ("self", "tasks") and parameter.kind is parameter.KEYWORD_ONLY
    }


def hyperparameter_defaults(kind: type[Weighter]) -> dict[str, Any]:
    """Hyperparameter -> default of a method, "auto" where the run decides it."""
    decided = kind.defaults_for(RunFacts(steps=1, steps_per_epoch=1, val_batches=1, seed=0))
    return {**hyperparameters_of(kind), **dict.fromkeys(decided, AUTO)}


def _problem(name: str) -> type[Problem]:
    found: type[Problem] = _load(name, Problem)
    return found


def own_source(name: str) -> str | None:
    """Hash of the code behind a class of the user's own: its file, and the modules beside it that it imports.

    Part of the key of its runs; None for listed names. Raises UserError where it cannot be read.
    """
    if ":" not in name:
        return None
    _check_trusted(name)
    file = _module(name.rpartition(":")[0], name).__file__
    if not file:
        return None
    digest = hashlib.sha256()
    try:
        for path in _imported_beside(Path(file)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    except OSError as error:
        raise UserError(f"{name}: expected a file that can be read at {error.filename}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _imported_beside(file: Path) -> list[Path]:
    """The file, and those in its folder that it imports, directly or by way of another, in the order of their names."""
    found, to_read = {file}, [file]
    while to_read:
        for name in _imports(to_read.pop()):
            for path in (file.parent / f"{name}.py", file.parent / name / "__init__.py"):
                if path.is_file() and path not in found:
                    found.add(path)
                    to_read.append(path)
    return sorted(found)


def _imports(file: Path) -> set[str]:
    """The last and the first parts of the names of all modules that a file imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(alias.name for alias in node.names)}
    return {part for name in names for part in (name.partition(".")[0], name.rpartition(".")[2])} - {""}


def _load(name: str, base: type[Any]) -> type[Any]:
    place, _, class_name = name.rpartition(":")
    module = _module(place, name)
    found = getattr(module, class_name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)]
        raise UserError(f"{name}: {unknown('class', class_name, classes)}")
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise UserError(f"{name}: expected a subclass of {base.__module__}.{base.__name__}, found {found!r}")
    lacking = sorted(getattr(found, "__abstractmethods__", ()))
    attributes = ("name", "all_tasks", "training", "splits") if base is Problem else ("name",)
    lacking += [attribute for attribute in attributes if not hasattr(found, attribute)]
    if lacking:
        raise UserError(f"{name}: expected every part of the contract {base.__name__}, found no {', '.join(lacking)}")
    return found


def _module(place: str, name: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            raise UserError(f"{name}: expected a file at {place}, found none")
        module_name = "own_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
        if module_name in sys.modules:
            return sys.modules[module_name]
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{name}: expected a Python file at {place}, found something else")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
        return module
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: cannot be imported: {one_line(error)}") from error


def make_problem(name: str, tasks: Sequence[str], options: Mapping[str, Any]) -> Problem:
    """The problem of a run. Raises UserError on an unknown name."""
    return problem_class(name)(tasks=tasks, **options)


def hyperparameters_in_run(weighter: str, hyperparameters: Mapping[str, Any], facts: RunFacts) -> dict[str, Any]:
    """The hyperparameters of a method as they are used: defaults that depend on the run filled in."""
    decided = weighter_class(weighter).defaults_for(facts)
    return {name: decided[name] if value == AUTO else value for name, value in hyperparameters.items()}
