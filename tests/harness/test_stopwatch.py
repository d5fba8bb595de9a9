"""Seconds per step: blocks that waited for a processor do not count, unless all did, which is told."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks.harness import stopwatch
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.records.schema import DISTURBED

CPU = torch.device("cpu")


def timed(monkeypatch: pytest.MonkeyPatch, blocks: list[tuple[float, float]], device: torch.device = CPU) -> Stopwatch:
    """A stopwatch on made-up clocks. blocks: seconds on the wall and of the processor, two steps each."""
    readings: dict[str, list[float]] = {"wall": [], "busy": []}
    for wall, busy in blocks:
        readings["wall"] += [0.0, wall]
        readings["busy"] += [0.0, busy]
    clocks = SimpleNamespace(perf_counter=lambda: readings["wall"].pop(0), process_time=lambda: readings["busy"].pop(0))
    monkeypatch.setattr(stopwatch, "time", clocks)
    watch = Stopwatch(device)
    for _ in blocks:
        with watch.block(2):
            pass
    return watch


def test_blocks_that_waited_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = timed(monkeypatch, [(2.0, 2.0), (8.0, 2.0), (2.2, 2.1), (8.0, 4.0)])
    assert watch.seconds_per_step == pytest.approx(1.05)
    assert watch.total_seconds == pytest.approx(20.2)
    assert watch.flags() == []


def test_where_all_waited_all_count_and_the_run_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = timed(monkeypatch, [(4.0, 2.0)] * 19 + [(2.0, 2.0)])
    assert watch.seconds_per_step == pytest.approx(2.0)
    (flag,) = watch.flags()
    assert flag.name == DISTURBED
    assert "for 49% of its training time" in flag.text


def test_a_process_that_waits_for_a_device_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    watch = timed(monkeypatch, [(4.0, 1.0), (2.0, 0.5)], torch.device("cuda"))
    assert watch.seconds_per_step == pytest.approx(1.5)
    assert watch.flags() == []


def test_several_threads_are_busier_than_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = timed(monkeypatch, [(2.0, 7.5)])
    assert watch.seconds_per_step == pytest.approx(1.0)
    assert watch.flags() == []


def test_what_raises_is_not_timed() -> None:
    watch = Stopwatch(CPU)
    with pytest.raises(ZeroDivisionError), watch.block(3):
        raise ZeroDivisionError
    assert watch.steps == []
    assert watch.flags() == []


def test_real_clocks_tell_sleep_from_work() -> None:
    """Nothing depends on how fast the machine is: asleep, a process uses next to no processor time."""
    watch = Stopwatch(CPU)
    with watch.block(1):
        time.sleep(0.2)
    assert [flag.name for flag in watch.flags()] == [DISTURBED]
