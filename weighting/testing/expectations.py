"""How a check says what it expected and what it found: one line, as an AssertionError."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from weighting import Weighter

State = Mapping[str, Tensor]
"""A copy of a method's state."""


class CannotTellError(Exception):
    """A check has nothing to look at: its property is neither held nor broken."""


def expect(holds: object, expected: str, found: object = None) -> None:
    """Raise AssertionError unless it holds."""
    if not bool(holds):
        raise AssertionError(f"expected {expected}" + ("" if found is None else f", found {shown(found)}"))


def same(found: Tensor, expected: Tensor, what: str, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raise AssertionError unless the two agree: to the last bit where no tolerance is given; NaN is like NaN."""
    expect(found.shape == expected.shape, f"{what} of shape {tuple(expected.shape)}", tuple(found.shape))
    near = torch.isclose(found.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True)
    if bool(near.all()):
        return
    at = tuple(near.logical_not().nonzero()[0].tolist())
    place = f" at {at}" if at else ""
    raise AssertionError(f"expected {what} of {expected[at].item():.9g}{place}, found {found[at].item():.9g}")


def all_finite(values: Tensor, what: str) -> None:
    """Raise AssertionError on a value that is not finite."""
    wrong = values.isfinite().logical_not()
    expect(not wrong.any(), f"{what} finite", None if not wrong.any() else values[wrong][0])


def state_of(weighter: Weighter) -> State:
    """A copy of the state."""
    return {name: value.clone() for name, value in weighter.state_dict().items()}


def same_state(found: State, expected: State, when: str, *, without: str = "") -> None:
    """Raise AssertionError unless all tensors of the state are equal; those whose names end in ``without`` are left out."""
    expect(found.keys() == expected.keys(), f"the same names in the state {when}", sorted(found.keys() ^ expected.keys()))
    for name, value in expected.items():
        if not without or not name.endswith(without):
            same(found[name], value, f"state {name!r} {when}")


@contextmanager
def refusal(*words: str, by: type[Exception] | tuple[type[Exception], ...] = ValueError) -> Iterator[None]:
    """What happens inside must be refused with one line that holds all the words."""
    try:
        yield
    except by as error:
        text = str(error)
        expect("\n" not in text and all(word in text for word in words), f"one line with {' and '.join(words)}", text)
    else:
        kinds = by if isinstance(by, tuple) else (by,)
        raise AssertionError(f"expected {' or '.join(kind.__name__ for kind in kinds)}, found no error")


def shown(found: object) -> str:
    """A value as it is put into a sentence."""
    if isinstance(found, Tensor):
        return f"{found.item():.9g}" if found.numel() == 1 else str([round(float(each), 6) for each in found.flatten()[:6]])
    return str(found)
