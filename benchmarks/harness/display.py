"""What a command shows while runs are trained: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

from tqdm import tqdm

from benchmarks.records.schema import SINGLE_TASK_ROLES, RunSpec

LINE_SECONDS = 60.0
"""Without a terminal, at most so long between two lines."""


def run_name(spec: RunSpec) -> str:
    """A run in a line: problem, method, task of a single-task run, role where it is another than the comparison, seed."""
    task = f" ({spec.problem.tasks[0]})" if spec.role in SINGLE_TASK_ROLES else ""
    purpose = spec.role.removeprefix("single_task_")
    role = f" ({purpose})" if purpose not in ("method", "single_task") else ""
    return f"{spec.problem.name}, {spec.weighter.label}{task}{role}, seed {spec.seed}"


class Display(Protocol):
    """Told of everything that happens."""

    def begin(self, slot: int, spec: RunSpec) -> None:
        """A run has begun."""

    def advance(self, slot: int, step: int, losses: dict[str, float]) -> None:
        """It has made so many steps."""

    def end(self, slot: int, state: str) -> None:
        """It has ended, in what state."""

    def tick(self) -> None:
        """Time has passed."""

    def close(self) -> None:
        """Nothing more will come."""


def display_for(total: int, done: int, slots: int) -> Display:
    """Bars where the error output is a terminal, else lines on the standard output."""
    return Bars(total, done, slots) if sys.stderr.isatty() else Lines(total, done)


class Bars:
    """A bar for the plan and one for each running run."""

    def __init__(self, total: int, done: int, slots: int) -> None:
        self.plan = tqdm(total=total, initial=done, desc="runs", unit="run", position=0, dynamic_ncols=True)
        self.bars = [tqdm(total=1, position=slot + 1, leave=False, unit="step", dynamic_ncols=True) for slot in range(slots)]

    def begin(self, slot: int, spec: RunSpec) -> None:
        """Name the bar."""
        bar = self.bars[slot]
        bar.reset(total=spec.training.steps)
        bar.set_description(run_name(spec))

    def advance(self, slot: int, step: int, losses: dict[str, float]) -> None:
        """Move the bar."""
        bar = self.bars[slot]
        bar.update(step - bar.n)
        bar.set_postfix({task: f"{loss:.3g}" for task, loss in list(losses.items())[:6]}, refresh=False)

    def end(self, slot: int, state: str) -> None:
        """Move the plan's bar, if the run is recorded."""
        if state in RECORDED:
            self.plan.update()

    def tick(self) -> None:
        """Bars move by themselves."""

    def close(self) -> None:
        """Take the bars away."""
        for bar in [*self.bars, self.plan]:
            bar.close()


RECORDED = ("finished", "diverged", "crashed", "out_of_memory")


class Lines:
    """A line when a run begins and when it ends, and one a minute while nothing else is said."""

    def __init__(
        self, total: int, done: int, *, say: Callable[[str], None] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.done, self.now = total, done, now
        self._write = say or (lambda text: print(text, flush=True))
        self.running: dict[int, tuple[RunSpec, float, int, dict[str, float]]] = {}
        self.said_at = now()

    def begin(self, slot: int, spec: RunSpec) -> None:
        """Say which run begins."""
        self.running[slot] = (spec, self.now(), 0, {})
        self._say(f"begins    {run_name(spec)}")

    def advance(self, slot: int, step: int, losses: dict[str, float]) -> None:
        """Remember how far it is."""
        spec, started, _, _ = self.running[slot]
        self.running[slot] = (spec, started, step, losses)

    def end(self, slot: int, state: str) -> None:
        """Say how it ended, after how long, and how many are done."""
        spec, started, _, _ = self.running.pop(slot)
        self.done += state in RECORDED
        took = f"{self.now() - started:.0f} s; {self.done} of {self.total} runs"
        self._say(f"{state.replace('_', ' '):9} {run_name(spec)} ({took})")

    def tick(self) -> None:
        """Say how far the runs are, if nothing was said for a minute."""
        if self.now() - self.said_at < LINE_SECONDS:
            return
        for spec, _, step, losses in self.running.values():
            numbers = ", ".join(f"{task} {loss:.3g}" for task, loss in list(losses.items())[:6])
            told = f"; losses {numbers}" if numbers else ""
            self._say(f"step {step} of {spec.training.steps}: {run_name(spec)}{told}")

    def close(self) -> None:
        """Nothing is left to take away."""

    def _say(self, text: str) -> None:
        self.said_at = self.now()
        self._write(text)
