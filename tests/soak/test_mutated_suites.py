"""Suites that somebody has mistyped: each is planned, or refused in a line with its place; a mistyped key always is."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import damage, restore
from figures import Figures
from suites import TINY, as_yaml, plan_in

from benchmarks.errors import UserError

pytestmark = pytest.mark.slow

SUITE: dict[str, Any] = {
    "question": "Which one?",
    "seeds": [0, 1],
    "training": {"probes": True, "steps": 30},
    "problems": [
        {
            "name": TINY,
            "options": {"noise": 0.2},
            "training": {"lr": 0.02},
            "seeds": [2],
            "weighters": ["uniform", "coba", {"name": "famo", "prior": [[2, 1, 1]]}],
            "hyperparameters": {"coba": {"tau": 3}},
            "tune": {"learning_rates": [0.001], "trials": 4, "seed": 100, "search": {"coba": {"window": [5, 10]}}},
        },
        {"name": "famo_toy", "options": {}},
        "gradnorm_toy",
    ],
    "weighters": ["uniform", {"name": "coba", "tau": [2, 5]}, "famo", "dwa"],
    "controls": {"simplex": 6, "frozen": True},
}
VALUES: tuple[Any, ...] = (
    *(None, [], {}, "x", "", "../x", -1, 0, 2.5, True, 10**30, float("nan"), float("inf")),
    *([[1], [1, 2]], {"a": {"b": 0}}),
)


def nodes(node: Any) -> Iterator[Any]:
    """All mappings and lists."""
    yield node
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict | list):
            yield from nodes(inner)


def keys(node: Any) -> list[Any]:
    return list(node) if isinstance(node, dict) else list(range(len(node)))


def drawn(content: Any, draw: random.Random) -> tuple[Any, Any]:
    """A mapping or list that has something in it, and one of its keys."""
    node = draw.choice([each for each in nodes(content) if each])
    return node, draw.choice(keys(node))


def other_value(content: Any, draw: random.Random) -> None:
    node, key = drawn(content, draw)
    node[key] = draw.choice(VALUES)


def left_out(content: Any, draw: random.Random) -> None:
    node, key = drawn(content, draw)
    del node[key]


def twice(content: Any, draw: random.Random) -> None:
    node = draw.choice([each for each in nodes(content) if isinstance(each, list) and each])
    node.append(copy.deepcopy(draw.choice(node)))


def moved(content: Any, draw: random.Random) -> None:
    (one, first), (other, second) = drawn(content, draw), drawn(content, draw)
    one[first], other[second] = copy.deepcopy(other[second]), copy.deepcopy(one[first])


def mistyped(content: Any, draw: random.Random) -> None:
    """A letter of a key is another one."""
    node = draw.choice([each for each in nodes(content) if isinstance(each, dict) and each])
    key = draw.choice(list(node))
    place = draw.randrange(len(key))
    node[key[:place] + draw.choice("QXZJ") + key[place + 1 :]] = node.pop(key)


MUTATIONS: tuple[Callable[[Any, random.Random], None], ...] = (other_value, left_out, twice, moved)


def refused(path: Path) -> str | None:
    """What is told of a suite; None where it can be planned. Any other end raises."""
    try:
        assert plan_in(path).runs
    except UserError as error:
        return str(error)
    return None


def test_a_mutated_suite_is_planned_or_refused_in_a_line(
    tmp_path: Path, figures: Figures, request: pytest.FixtureRequest
) -> None:
    path, whole = tmp_path / "mine.yaml", as_yaml(SUITE)
    path.write_text(whole, encoding="utf-8")
    assert refused(path) is None
    times = max(30, request.config.getoption("faults") // 5)
    wrong: list[tuple[int, str]] = []
    told = 0
    for seed in range(times):
        draw = random.Random(seed)
        kind = seed % 3
        if kind == 0:
            damage(path, draw)
        else:
            content = copy.deepcopy(SUITE)
            (mistyped if kind == 1 else draw.choice(MUTATIONS))(content, draw)
            path.write_text(as_yaml(content), encoding="utf-8")
        try:
            said = refused(path)
        except Exception as error:  # noqa: BLE001 - which is what must not happen, whatever it is
            wrong.append((seed, repr(error)[:300]))
        else:
            told += said is not None
            if said is None and kind == 1:
                wrong.append((seed, "a mistyped key was not noticed"))
            if said is not None and ("\n" in said or not said.startswith(str(path))):
                wrong.append((seed, said[:300]))
        restore(path, whole.encode())
    assert wrong == []
    assert 0 < told < times
    figures.add("Mutated suites", {"seeds": f"0 to {times - 1}", "told in a line": told, "other ends": len(wrong)})
