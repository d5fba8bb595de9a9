"""A function's answer about a class, given by another process: what must not hang on the process it is asked in."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

PROGRAM = "from weighting.testing.elsewhere import answer; answer()"


def elsewhere(
    function: Callable[..., Any], kind: type, *arguments: Any, environment: Mapping[str, str] | None = None
) -> Any:
    """``function(kind, *arguments)`` in a process of its own, with another seed of Python's hashes.

    The function lies in an importable module; its arguments and its answer are JSON. The class is imported by its module's
    name, or from its file. Raises RuntimeError of one line if the process fails.
    """
    asked = {
        "function": (function.__module__, function.__qualname__),
        "kind": (kind.__module__, getattr(sys.modules[kind.__module__], "__file__", None), kind.__qualname__),
        "arguments": arguments,
        "threads": torch.get_num_threads(),
    }
    given = {"PYTHONPATH": os.pathsep.join(place for place in sys.path if place), "PYTHONHASHSEED": "123"}
    told = {**os.environ, **given, **(environment or {})}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(asked), env=told, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return json.loads(lines[-1])


def answer() -> None:
    """What the other process does."""
    asked = json.loads(sys.stdin.read())
    torch.set_num_threads(asked["threads"])
    function = _within(importlib.import_module(asked["function"][0]), asked["function"][1])
    module, file, name = asked["kind"]
    print("\n" + json.dumps(function(_within(_module(module, file), name), *asked["arguments"])))


def _module(name: str, file: str | None) -> Any:
    if name != "__main__":
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name or file is None:
                raise
    name = "__mp_main__" if name == "__main__" else name
    spec = importlib.util.spec_from_file_location(name, file or "")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"expected a Python file at {file}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _within(module: Any, qualified: str) -> Any:
    for part in qualified.split("."):
        module = getattr(module, part)
    return module
