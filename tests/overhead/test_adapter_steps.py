"""Every trainer makes steps with and without weights, and the clock counts all but the first."""

from __future__ import annotations

import pytest
import torch

from benchmarks.overhead import adapter_steps as steps
from benchmarks.overhead import small_llama

CPU = torch.device("cpu")
ALONE = [name for name, setting in steps.SETTINGS.items() if setting.name == steps.WITHOUT]


class EveryStep(steps.Clock):
    """Looks at what it was told before it says how long it took."""

    def seconds(self) -> float:
        assert len(self.ends) == steps.BLOCK_STEPS + 1
        return super().seconds()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not steps.installed(), reason="a trainer is not installed")
def test_every_trainer_has_a_row_for_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {name: steps.SETTINGS[name] for name in (*ALONE, "uniform", "coba", "famo, one micro-batch")}
    changed = {"ROUNDS": 1, "WARMUP_ROUNDS": 0, "BLOCK_STEPS": 2, "SETTINGS": settings}
    for name, value in {**changed, "Clock": EveryStep}.items():
        monkeypatch.setattr(steps, name, value)
    monkeypatch.setattr(small_llama, "TOKENS", 4)
    monkeypatch.setattr(small_llama, "ROWS", 4)
    found = steps.adapter_costs(CPU)
    expected = [(trainer, name) for trainer in steps.TRAINERS for name in settings]
    assert [*zip(found["trainer"], found["weights"], strict=True)] == expected
    assert (found["ms per step"] > 0).all()
    assert (found["ratio"][found["weights"].isin(ALONE)] == 1).all()
    assert found["allowed"].notna().tolist() == [False, False, True, True, True] * len(steps.TRAINERS)


def test_seconds_are_those_between_the_first_and_the_last() -> None:
    clock = steps.Clock(CPU)
    clock.ends = [1.0, 3.0, 7.0]
    assert clock.seconds() == 3.0
    assert clock.ends == []
