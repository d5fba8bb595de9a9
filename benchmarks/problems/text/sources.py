"""The built-in languages: which files of an installation make them, and what is left out.

Python's standard library and the torch wheel are in every installation, and identical in the Linux, macOS and Windows
wheels of a version as far as they are taken here. What differs between builds (build configuration, version strings), what
some distributions leave out or patch, tests, vendored code and machine-written code is left out. Nothing is copied or
redistributed: the files are read where they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sysconfig
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from benchmarks.problems.text.documents import Piece, blocks, read_text, split_of

PYTHON_OUT = {
    *("test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "lib-dynload"),
    *("encodings", "pydoc_data", "tkinter", "turtledemo", "idlelib", "lib2to3", "distutils", "ensurepip", "msilib"),
}
"""Tests; installed packages; generated tables; the english task's text; what distributions package apart."""
HEADER_ROOTS = ("ATen", "c10", "torch")
"""PyTorch's own headers; the other folders of include/ are vendored and differ between platforms."""
HEADERS_OUT = {"ops", "generated", "hip", "mps", "metal", "miopen", "xpu", "mtia", "test"}
"""ATen/ops is 7,000 generated files; the rest are generated, or back ends that not every wheel ships."""
BUILD_FILES = {
    *("Config.h", "config.h", "CUDAConfig.h", "build_config.h", "build_variables.h"),
    *("cmake_macros.h", "cuda_cmake_macros.h", "version.h", "RegistrationDeclarations.h"),
}
"""Written when a wheel is built: they differ between platforms of the same version."""
BACK_END_LISTS = re.compile(r"ATen/\w+Functions\.h")
"""Generated too, one for each back end of the build."""
CUDA_PARTS = {"cuda", "cudnn"}


def read_source(path: Path) -> str | None:
    """A hand-written source file; None for a generated one, which says so in its head."""
    text = read_text(path)
    return None if text is None or "generated" in text[:600].lower() else text


def files(root: Path, endings: tuple[str, ...], out: Collection[str] = ()) -> Iterator[tuple[str, Path]]:
    """Files below a root with their relative POSIX paths. Folders in ``out`` are not even listed: that takes seconds."""
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in out]
        for name in names:
            if name.endswith(endings):
                path = Path(folder, name)
                yield path.relative_to(root).as_posix(), path


def package(name: str) -> Path | None:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def python() -> Iterator[Piece]:
    """Modules of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for key, path in files(root, (".py",), PYTHON_OUT):
        if not path.name.startswith("_sysconfigdata"):
            yield Piece(key, split_of(key), partial(read_source, path))


def _headers(cuda: bool) -> Iterator[Piece]:
    torch = package("torch")
    for folder in HEADER_ROOTS if torch else ():
        for below, path in files(Path(torch or "", "include", folder), (".h", ".hpp", ".cuh"), HEADERS_OUT):
            key = f"{folder}/{below}"
            is_cuda = path.suffix == ".cuh" or not CUDA_PARTS.isdisjoint(key.split("/"))
            built = path.name in BUILD_FILES or BACK_END_LISTS.fullmatch(key) is not None
            if is_cuda == cuda and not built:
                yield Piece(key, split_of(key), partial(read_source, path))


def cpp() -> Iterator[Piece]:
    """PyTorch's C++ headers without the CUDA ones."""
    return _headers(cuda=False)


def cuda() -> Iterator[Piece]:
    """PyTorch's CUDA headers, which the CPU, macOS and Windows wheels ship too."""
    return _headers(cuda=True)


def _in_blocks(name: str, ending: str) -> Iterator[Piece]:
    root = package(name)
    for key, path in files(root, (ending,), {"include", "lib", "__pycache__"}) if root else ():
        text = read_text(path)
        if text is not None:
            yield from blocks(key, text)


def stubs() -> Iterator[Piece]:
    """PyTorch's type stubs. Few and big, so blocks; generated, but that is what stubs are."""
    return _in_blocks("torch", ".pyi")


def yaml() -> Iterator[Piece]:
    """The operator tables of torchgen, four files, so blocks."""
    return _in_blocks("torchgen", ".yaml")


def english() -> Iterator[Piece]:
    """The documentation topics of the standard library, about 80 pages of prose, split by page."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        return
    for key, text in topics.items():
        yield Piece(key, split_of(key), partial(str, text))


LANGUAGES: dict[str, Callable[[], Iterator[Piece]]] = {
    "python": python,
    "cpp": cpp,
    "cuda": cuda,
    "stubs": stubs,
    "yaml": yaml,
    "english": english,
}
COMES_WITH = {
    "python": "the standard library's .py files (a Python that is not zipped)",
    "cpp": "torch/include (PyTorch's own wheel; some distributions package it apart)",
    "cuda": "torch/include (PyTorch's own wheel; some distributions package it apart)",
    "stubs": "torch's .pyi files (PyTorch's own wheel)",
    "yaml": "torchgen's .yaml files (PyTorch's own wheel)",
    "english": "pydoc_data (part of the standard library)",
}
