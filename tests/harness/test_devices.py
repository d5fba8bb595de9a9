"""Which devices train, and how runs are shared out among them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands_at_work import jobs_of
from suites import suite_file

from benchmarks.analysis.relative_cost import seconds_per_step
from benchmarks.errors import UserError
from benchmarks.harness import local
from benchmarks.harness.devices import Devices, check_here, read_devices
from benchmarks.harness.local import LocalExecutor
from benchmarks.harness.processes import LostError
from benchmarks.harness.worker import run_job
from benchmarks.records.reading import read_all
from benchmarks.records.schema import Run


@pytest.mark.parametrize(
    ("text", "names", "kind", "slots"),
    [
        ("cpu", ("cpu",), "cpu", None),
        ("cuda", ("cuda",), "cuda", 2),
        ("cuda:1", ("cuda:1",), "cuda", 2),
        ("cuda:0-3", ("cuda:0", "cuda:1", "cuda:2", "cuda:3"), "cuda", 8),
        ("cuda:0-1,6", ("cuda:0", "cuda:1", "cuda:6"), "cuda", 6),
    ],
)
def test_what_is_read(text: str, names: tuple[str, ...], kind: str, slots: int | None) -> None:
    found = read_devices(text, 1 if text == "cpu" else 2)
    assert (found.names, found.kind, found.slots) == (names, kind, slots)


@pytest.mark.parametrize(
    ("text", "per_device", "says"),
    [
        ("gpu", 1, "--devices: expected cpu, cuda, cuda:N or several as cuda:0-3,6, found 'gpu'"),
        ("cpu:0", 1, "found 'cpu:0'"),
        ("cuda:", 1, "found 'cuda:'"),
        ("cuda:0-", 1, "found 'cuda:0-'"),
        ("cuda:-1", 1, "found 'cuda:-1'"),
        ("cuda:3-1", 1, "--devices: expected numbers in rising order, found 'cuda:3-1'"),
        ("cuda:0-2,1", 1, "--devices: expected each GPU once, found 'cuda:0-2,1'; for runs that share one, --per-device"),
        ("cpu", 2, "--per-device: expected GPUs with it, as --devices cuda:0-3, found --devices cpu"),
    ],
)
def test_anything_else_is_told_in_a_line(text: str, per_device: int, says: str) -> None:
    with pytest.raises(UserError) as error:
        read_devices(text, per_device)
    assert says in str(error.value)


def test_gpus_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_here(Devices(("cuda:0", "cuda:1")))
    check_here(Devices(("cuda",)))
    check_here(Devices())
    with pytest.raises(UserError, match="expected devices that this machine has, found cuda:2, cuda:3 and 2 CUDA devices"):
        check_here(read_devices("cuda:1-3", 1))


def test_every_slot_has_a_device_and_neighbours_have_different_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    class Started:
        def __init__(self, *rest: Any) -> None: ...

        def start(self, work: Any, job: Any, **more: Any) -> Any:
            given.append(job.device)
            raise LostError("not this time")

    monkeypatch.setattr(local, "ProcessStarter", Started)
    (job,) = jobs_of(suite_file(tmp_path), "uniform")
    executor = LocalExecutor([job], 4, Devices(("cuda:0", "cuda:3"), 2), lambda slot, event: None, lambda: True)
    for slot in range(4):
        executor.start(slot, job)
    assert given == ["cuda:0", "cuda:3"] * 2


def test_times_of_runs_that_share_a_gpu_are_not_compared(tmp_path: Path) -> None:
    found = []
    for number, per_device in enumerate((1, 2)):
        (job,) = jobs_of(suite_file(tmp_path / str(number)), "uniform")
        run_job(replace(job, per_device=per_device), lambda event: None, lambda: False)
        (run,) = read_all(job.folder)
        assert isinstance(run, Run)
        found.append(run)
    alone, shared = ([flag.text for flag in run.record.flags if "shared a GPU" in flag.text] for run in found)
    assert alone == []
    assert shared == ["2 runs shared a GPU: s/step is that of none of them alone"]
    assert math.isnan(seconds_per_step(found[1]))
