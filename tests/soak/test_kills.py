"""Commands that are killed, stopped and asked to end at any moment: what is recorded in the end is what would have been.

A seed draws whom a signal hits, which one, and when; after it the same command is called until all is recorded.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray_cluster
from commands_at_work import (
    LONG,
    assert_same_numbers,
    default_signals,
    descendants,
    ended,
    gone,
    in_process,
    jobs_of,
    own,
    runs_of,
    servers,
    start,
    traced,
    wait_until,
)
from figures import Figures
from suites import TINY, suite_file

from benchmarks.problems.code_lm import CodeLM
from benchmarks.problems.finetune_lm import FinetuneLM
from benchmarks.problems.multidigits import MultiDigits
from benchmarks.records.schema import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

FEW = {"steps": 30, "log_every": 5, "evaluate_every": 15}
# A method of a file that also asks for a checkpoint after every block of steps.
ONE = [own("Fine")]
DROPOUT = {"lora": {"rank": 2, "dropout": 0.1}}
SUITES: dict[str, dict[str, Any]] = {
    "tiny": {"training": LONG, "problems": [TINY], "weighters": ["gradnorm", {"name": "coba", "warmup": 5, "window": 10}]},
    "every problem": {
        "problems": [
            {"name": "famo_toy", "training": FEW, "weighters": ONE},
            {"name": "gradnorm_toy", "training": FEW, "weighters": ONE},
            {"name": "multidigits", "training": FEW, "options": dict(MultiDigits.small), "weighters": ONE},
            {"name": "code_lm", "training": FEW, "options": dict(CodeLM.small), "weighters": ONE},
            {
                "name": "finetune_lm",
                "training": {**FEW, "batch_size": 2},
                "options": {**FinetuneLM.small, "adapt": DROPOUT, "cache_frozen": False},
                "weighters": ONE,
            },
        ],
        "weighters": ONE,
    },
}
ONLY = {"tiny": ("--weighters", "gradnorm,coba"), "every problem": ("--weighters", ONE[0]["name"])}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGSTOP)
VICTIMS = {
    "local": ("a run", "the fork server", "the command", "all of them"),
    "here": ("the command",),
    "ray": ("a run", "raylet", "the command"),
}
KILLS_PER_RAY = 8
"""A Ray of its own takes long to start: one of so many kills is of one."""
KILLS_PER_LARGE = 20
"""One command of so many trains every problem, which takes as long."""
LATEST = {"local": 6.0, "here": 4.0, "ray": 15.0}
"""Seconds after the start of a command; by then a quiet machine has trained all."""


@dataclass(frozen=True)
class Kill:
    """One signal to one process of a command."""

    executor: str
    victim: str
    number: signal.Signals
    after: float

    @classmethod
    def drawn(cls, seed: int, executor: str) -> Kill:
        draw = random.Random(seed)
        number = draw.choice(SIGNALS)
        # A worker is asked to stop by its parent alone, so that only these say something of it.
        hard = [signal.SIGKILL, signal.SIGSTOP]
        victim = draw.choice(VICTIMS[executor])
        if victim in ("a run", "the fork server", "raylet") and number not in hard:
            number = draw.choice(hard)
        return cls(executor, victim, number, draw.uniform(0.0, LATEST[executor]))

    def strike(self, process: subprocess.Popen[str], suite: Path) -> bool:
        """Whether there was somebody to be hit."""
        if process.poll() is not None:
            return False
        hit = self._hit(process, suite)
        for each in hit:
            self._send(each)
        if self.number == signal.SIGSTOP:
            time.sleep(0.5)
            for each in hit:
                if each.is_running():
                    each.send_signal(signal.SIGCONT)
        return bool(hit)

    def _hit(self, process: subprocess.Popen[str], suite: Path) -> list[psutil.Process]:
        if self.victim == "the command":
            return [psutil.Process(process.pid)]
        if self.victim == "all of them":
            return [psutil.Process(process.pid), *descendants(process)]
        if self.victim == "the fork server":
            return servers(process)
        if self.victim == "raylet":
            return [each for each in descendants(process) if each.name() == "raylet"]
        trace = suite.parent / "trace.txt"
        trained = {int(line.split()[0]) for line in traced(suite)} if trace.exists() else set()
        return [each for each in descendants(process) if each.pid in trained][-1:]

    def _send(self, victim: psutil.Process) -> None:
        try:
            victim.send_signal(self.number)
        except psutil.NoSuchProcess:
            return


def undisturbed(name: str, folder: Path) -> dict[str, Run]:
    """What is recorded of a suite where nothing happens."""
    path = suite_file(folder / name, **SUITES[name])
    for job in jobs_of(path, *ONLY[name][1].split(",")):
        assert in_process(job).state == "finished"
    return runs_of(path.parent / "out")


def executor_of(seed: int) -> str:
    if ray_cluster.is_installed() and seed % KILLS_PER_RAY == KILLS_PER_RAY - 1:
        return "ray"
    return "here" if seed % 4 == 2 else "local"


def killed(suite: Path, words: tuple[str, ...], kill: Kill) -> bool:
    """One command with one kill; checks how it ended. Returns whether somebody was hit."""
    more = {"RAY_worker_niceness": "0"}
    process = start(suite, *words, sleep=0.01, more=more, preexec_fn=default_signals)
    time.sleep(kill.after)
    children = descendants(process) if process.poll() is None else []
    hit = kill.strike(process, suite)
    code, stdout, stderr = ended(process)
    assert "Traceback" not in stdout + stderr, (kill, stderr)
    assert code in (0, 1, 2, 128 + kill.number, -kill.number), (kill, code, stderr)
    assert code != 2 or kill.victim == "raylet", (kill, stderr)
    wait_until(lambda: gone(children), f"no process left after {kill}")
    return hit


def test_what_is_recorded_in_the_end_is_the_same(tmp_path: Path, figures: Figures, request: pytest.FixtureRequest) -> None:
    times = request.config.getoption("kills")
    done: Counter[tuple[str, str, str]] = Counter()
    expected: dict[str, dict[str, Run]] = {}
    records = 0
    kills = iter(range(times))
    seed = next(kills, None)
    while seed is not None:
        name = "every problem" if seed % KILLS_PER_LARGE == 3 else "tiny"
        if name not in expected:
            expected[name] = undisturbed(name, tmp_path)
        suite = suite_file(tmp_path / str(seed), **SUITES[name])
        # Several kills of one suite, as long as something is left to train.
        while seed is not None and runs_of(suite.parent / "out").keys() != expected[name].keys():
            kill = Kill.drawn(seed, executor_of(seed))
            if killed(suite, (*ONLY[name], "--executor", kill.executor), kill):
                done[kill.executor, kill.victim, kill.number.name] += 1
            seed = next(kills, None)
        code, _, stderr = ended(start(suite, *ONLY[name]))
        assert (code, "Traceback" in stderr) == (0, False), stderr
        assert_same_numbers(runs_of(suite.parent / "out"), expected[name])
        left = {path.suffix for path in (suite.parent / "out" / "mine" / "unfinished").glob("*")}
        assert left <= {".lock"}
        records += len(expected[name])
    assert done
    for (executor, victim, number), count in sorted(done.items()):
        figures.add("Kills", {"executor": executor, "who was hit": victim, "signal": number, "times": count})
    figures.add("Records after the kills", {"seeds": f"0 to {times - 1}", "records": records, "other than undisturbed": 0})
