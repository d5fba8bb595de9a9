"""A log shown to a method: by the public driver, and by hand as a training loop does."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from scripts import every_setting, make
from torch import Tensor

import weighting
from weighting import Needs, Observation
from weighting.observation import COUNTS, COUNTS_OF, FIELD_OF
from weighting.testing.synthetic import script


class Recorder(weighting.Weighter):
    """Keeps what it is shown."""

    name = "recorder"
    needs = ~Needs.NOTHING

    def __init__(self, num_tasks: int, asks: Needs) -> None:
        super().__init__(num_tasks)
        self.asks = asks
        self.seen: list[tuple[str, set[str]]] = []

    def wants(self) -> Needs:
        return self.asks

    def note(self, call: str, seen: Observation) -> None:
        names = [field.name for field in fields(seen) if field.name not in COUNTS]
        self.seen.append((call, {name for name in names if getattr(seen, name) is not None}))

    def start(self, first: Observation) -> None:
        self.note("start", first)

    def weights(self, now: Observation) -> Tensor:
        self.note("weights", now)
        return self.as_weights(torch.ones(self.shape), now)

    def update(self, after: Observation) -> None:
        self.note("update", after)


@pytest.mark.parametrize("need", Needs)
def test_a_method_is_shown_what_it_asks_for_and_no_more(need: Needs) -> None:
    shown = script(2, 2, absent=True)
    recorder = Recorder(2, need)
    weighting.replay(recorder, [shown.first, *shown.steps])
    before = {"losses", "gramian"} if need == Needs.GRAMIAN else {"losses"}
    step = [("weights", before), ("update", {"losses", FIELD_OF[need]})]
    assert recorder.seen == [("start", {"losses", "val_losses"}), *step, *step]


def test_every_field_has_its_counts() -> None:
    fields = set(Observation.__dataclass_fields__) - set(COUNTS)
    assert set(COUNTS_OF) == fields == {"losses", *FIELD_OF.values()}
    of_validation = {"val_losses": ("val_counts",), "val_losses_before": ("val_counts",)}
    assert {field: counts for field, counts in COUNTS_OF.items() if counts == ("val_counts",)} == of_validation
    assert COUNTS_OF["cross_gramian"] == ("val_counts", "counts")


@every_setting
def test_it_is_what_a_training_loop_does(name: str, more: dict[str, Any]) -> None:
    """A loop that always passes everything gives the same weights."""
    shown = script(3, 20, absent=True)
    by_hand = make(name, **more)
    by_hand.start(shown.first)
    expected = []
    for step in shown.steps:
        expected.append(by_hand.weights(step))
        by_hand.update(step)
    found = weighting.replay(make(name, **more), [shown.first, *shown.steps])
    assert found.shape == (20, 3)
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("length", [0, 1])
def test_a_log_without_a_step_is_one_line(length: int) -> None:
    with pytest.raises(ValueError, match=rf"^uniform: expected a log of the start and at least one step, found {length}$"):
        weighting.replay(weighting.create("uniform", 2), [Observation(losses=[1.0, 2.0])] * length)
