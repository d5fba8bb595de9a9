"""From names to classes: the listed problems and weighters, and those of the user's own.

A class of the user's own is named ``path/to/file.py:ClassName`` or ``package.module:ClassName``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.base import Problem
from benchmarks.errors import UserError, one_line, unknown
from benchmarks.problems import LISTED
from weighting import METHODS, Weighter


def problem_class(name: str) -> type[Problem]:
    """The class of a listed problem or one of the user's own. Raises UserError."""
    if name in LISTED:
        return _problem(LISTED[name])
    if ":" not in name:
        raise UserError(unknown("problem", name, LISTED))
    return _problem(name)


def weighter_class(name: str) -> type[Weighter]:
    """The class of a listed method or one of the user's own. Raises UserError."""
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise UserError(unknown("weighter", name, METHODS))
    found: type[Weighter] = _load(name, Weighter)
    return found


def _problem(name: str) -> type[Problem]:
    found: type[Problem] = _load(name, Problem)
    return found


def own_source(name: str) -> str | None:
    """Hash of the file behind a class of the user's own, part of the key of its runs; None for listed names."""
    if ":" not in name:
        return None
    file = _module(name.rpartition(":")[0], name).__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else None


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
