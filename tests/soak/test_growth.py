"""A suite that grows: every run is found, and what each command takes for so many records is counted and drawn."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import psutil
import pytest
from fake_runs import make, suite, write_suite
from figures import Figures
from places import ROOT
from playwright.sync_api import Browser
from suites import plan_in, suite_file

from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.records.packing import pack_runs
from benchmarks.records.storage import write_run
from benchmarks.report.html.page import write_html

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

WEIGHTERS = ("uniform", "random", "gradnorm", "dwa", "uncertainty", "gls", "imtl_l", "lbtw", "famo", "coba")
SHORT = {"steps": 40, "log_every": 10, "evaluate_every": 20}
LOAD = "import sys, benchmarks; print(len(benchmarks.load(sys.argv[1])))"
LONG = 1000
"""From so many records on, smaller suites are measured beside the largest."""
STEPS = ("plan", "load", "report", "page")
PICTURE = ROOT / "plots" / "reliability" / "growth.png"


def recorded(folder: Path, number: int) -> Path:
    """A suite of about so many runs, all of which have records; the suite file."""
    per_seed = len(plan_in(suite_file(folder, training=SHORT, weighters=list(WEIGHTERS))).runs)
    seeds = list(range(max(2, number // per_seed)))
    path = suite_file(folder, training=SHORT, weighters=list(WEIGHTERS), seeds=seeds)
    results = folder / "out" / "mine" / "runs"
    for spec in plan_in(path).runs:
        made = make(spec.weighter.label, spec.seed, tasks=spec.problem.tasks, training=spec.training, role=spec.role)
        record = made.record.model_copy(update={"key": spec.key, "run": spec, "suite": "mine"})
        write_run(results, record, made.trajectory)
    pack_runs(folder / "out" / "mine")
    return path


def cost(words: list[str], folder: Path) -> tuple[float, float, str]:
    """Processor seconds of a command and its processes, its largest memory in MB, and what it said."""
    before = psutil.Process().cpu_times()
    largest, answer = 0.0, folder / "said.txt"
    with answer.open("w") as said, subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=said, stderr=said) as command:
        while command.poll() is None:
            with contextlib.suppress(psutil.Error):
                largest = max(largest, psutil.Process(command.pid).memory_info().rss / 1e6)
            time.sleep(0.05)
    assert command.returncode == 0, answer.read_text()
    after = psutil.Process().cpu_times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, largest, answer.read_text()


def test_what_commands_take_as_a_suite_grows(tmp_path: Path, figures: Figures, request: pytest.FixtureRequest) -> None:
    largest = request.config.getoption("faults")
    sizes = [largest // 8, largest // 4, largest // 2, largest] if largest >= LONG else [largest // 2]
    rows: list[dict[str, Any]] = []
    for number in sizes:
        folder = tmp_path / str(number)
        path = recorded(folder, number)
        results, count = folder / "out", len(plan_in(path).runs)
        places = ["--out", str(results), "--plots", str(folder / "plots")]
        commands = {
            "plan": ["run_bench.py", str(path), "--trust", "--dry-run", *places],
            "load": ["-c", LOAD, str(results / "mine")],
            "report": ["run_bench.py", "report", str(path), "--trust", *places],
            "page": ["run_bench.py", "report", str(path), "--trust", "--html", *places],
        }
        row: dict[str, Any] = {"records": count}
        memory = 0.0
        for name, words in commands.items():
            row[name], peak, said = cost(words, folder)
            memory = max(memory, peak)
            if name == "plan":
                assert said.count("  recorded  ") == count
            if name == "load":
                assert int(said) == count
        rows.append({**row, "largest MB": round(memory)})
    for row in rows:
        figures.add("Growth: processor seconds", {name: _short(value) for name, value in row.items()})
    if request.config.getoption("figures", default=None):
        _draw(rows)


def test_the_page_of_a_large_suite_opens(tmp_path: Path, figures: Figures, browser: Browser) -> None:
    """Thirty methods and twenty seeds."""
    methods = ["uniform", *(f"coba(window={number})" for number in range(2, 31))]
    folder = write_suite(tmp_path / "fake", suite(seeds=range(20), languages=3, methods=methods))
    address = write_html(suite_tables(folder), "Which one?")
    page = browser.new_page()
    page.goto(address.as_uri(), wait_until="load")
    timing = json.loads(page.evaluate("JSON.stringify(performance.getEntriesByType('navigation')[0])"))
    assert page.locator("table").count() > 0
    page.close()
    row = {"methods": len(methods), "seeds": 20, "MB": f"{address.stat().st_size / 1e6:.1f}"}
    figures.add("A large page in a browser", {**row, "seconds until it is loaded": f"{timing['loadEventEnd'] / 1e3:.2f}"})


def _short(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _draw(rows: list[dict[str, Any]]) -> None:
    drawing, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in STEPS:
        axes.plot([row["records"] for row in rows], [row[name] for row in rows], marker="o", label=name)
    axes.set(xlabel="records in the suite", ylabel="processor seconds", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(PICTURE, dpi=150)
    plt.close(drawing)
