"""Without a terminal a command still says what it does; and it starts no more runs than there is memory for."""

from __future__ import annotations

from pathlib import Path

import pytest
from suites import plan_of, suite

from benchmarks.harness.display import LINE_SECONDS, Lines
from benchmarks.harness.memory import MemoryGate, Running, available_memory
from benchmarks.records.schema import RunSpec

MB = 2**20


@pytest.fixture
def specs(tmp_path: Path) -> list[RunSpec]:
    return plan_of(tmp_path, suite(seeds=[0, 1], weighters=["uniform", "famo"])).runs


def test_a_line_when_a_run_begins_and_ends_and_one_a_minute(specs: list[RunSpec]) -> None:
    clock, said = [0.0], list[str]()
    lines = Lines(7, 2, say=said.append, now=lambda: clock[0])
    lines.begin(0, specs[0])
    lines.advance(0, 10, {"small": 0.25, "large": 3.0})
    for _ in range(600):
        clock[0] += 0.5
        lines.tick()
    lines.end(0, "finished")
    lines.begin(0, specs[1])
    lines.end(0, "stopped")
    name = f"{specs[0].problem.name}, uniform, seed 0"
    assert said[0] == f"begins    {name}"
    minutes = [line for line in said if line.startswith("step 10 of 20: ")]
    assert len(minutes) == 300 / LINE_SECONDS
    assert minutes[0].endswith("; losses small 0.25, large 3")
    assert f"finished  {name} (300 s; 3 of 7 runs)" in said
    assert said[-1].startswith("stopped ") and "3 of 7 runs" in said[-1]


class Machine:
    """So many bytes, of which running processes hold what is theirs."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.held: dict[int, float] = {}

    def gate(self) -> MemoryGate:
        return MemoryGate(available=lambda: self.total - sum(self.held.values()), taken=lambda pid: self.held.get(pid, 0.0))


def test_no_more_runs_than_there_is_memory_for(specs: list[RunSpec]) -> None:
    machine = Machine(8000 * MB)
    gate = machine.gate()
    assert gate.why_not(specs[0], []) == ""
    machine.held[1] = 100 * MB
    starting = [Running(specs[0], 1, trains=False)]
    gate.look(starting)
    assert gate.why_not(specs[1], starting) == "what a run of its kind needs is not known yet"
    machine.held[1] = 5000 * MB
    training = [Running(specs[0], 1, trains=True)]
    gate.look(training)
    why_not = gate.why_not(specs[1], training)
    assert why_not.endswith("takes 5500 MB and 3000 MB are free")
    assert gate.why_not(specs[1], []) == "", "one may always run"
    machine.total = 16000 * MB
    assert gate.why_not(specs[1], training) == ""


def test_what_the_others_will_still_take_is_not_free(specs: list[RunSpec]) -> None:
    machine = Machine(12000 * MB)
    gate = machine.gate()
    machine.held[1] = 5000 * MB
    gate.look([Running(specs[0], 1, trains=True)])
    # Another of its kind has begun and holds little so far.
    machine.held = {2: 100 * MB}
    assert gate.why_not(specs[2], [Running(specs[1], 2, trains=False)]) == ""
    machine.total = 9000 * MB
    assert "MB are free" in gate.why_not(specs[2], [Running(specs[1], 2, trains=False)])


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    assert available_memory(tmp_path) > 0
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert available_memory(tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) > 600_000
