"""The examples in docstrings: every listed method has one, and what they print is what comes out."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import weighting

MODULES = sorted(module.name for module in pkgutil.walk_packages(weighting.__path__, "weighting."))


@pytest.mark.parametrize("name", ["weighting", *MODULES])
def test_examples_print_what_they_say(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", weighting.names())
def test_every_method_has_an_example_of_its_own(name: str) -> None:
    kind = weighting.method(name)
    examples = doctest.DocTestParser().get_examples(kind.__dict__["__doc__"] or "")
    assert any(f'create("{name}"' in example.source for example in examples)
    assert any(example.want for example in examples)


@pytest.mark.parametrize("name", ["nonsense", "cobra"])
def test_a_citation_of_an_unknown_method_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=f"^unknown weighter '{name}'; .*known: uniform, "):
        weighting.citation(name)
