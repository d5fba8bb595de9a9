"""A suite that one process trains and reports again and again: its memory and its open files stay what they were."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from figures import Figures
from places import ROOT
from suites import suite_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

SHORT = {"steps": 20, "log_every": 5, "evaluate_every": 10}
ROUNDS = 6
"""At least; the first third is not judged, since caches fill."""
MORE = 0.05
"""The share by which the last third may have more memory than the second. One run's arrays are a thousandth of it."""
PROGRAM = """
import sys
from pathlib import Path
from benchmarks.cli.main import main
for line in sys.stdin:
    folder = Path(line.strip())
    code = main([sys.argv[1], "--trust", "--executor", "here", "--out", str(folder), "--plots", str(folder / "plots")])
    print(f"round {code}", file=sys.stderr, flush=True)
"""


def rounds(suite: Path, folder: Path) -> Iterator[tuple[float, int]]:
    """After each time that a process has trained and reported a suite, its memory in MB and its number of open files."""
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", PROGRAM, str(suite)]
    with subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, text=True) as program:
        assert program.stdin is not None and program.stderr is not None
        process = psutil.Process(program.pid)
        try:
            while True:
                print(folder, file=program.stdin, flush=True)
                said = next(line for line in iter(program.stderr.readline, "") if line.startswith("round"))
                assert said == "round 0\n"
                yield process.memory_info().rss / 1e6, process.num_fds()
                shutil.rmtree(folder)
        finally:
            program.kill()


def test_memory_and_open_files_stay_as_they_are(tmp_path: Path, figures: Figures, request: pytest.FixtureRequest) -> None:
    suite = suite_file(tmp_path, training=SHORT, weighters=["uniform", "coba", "famo"])
    end = time.monotonic() + 60 * request.config.getoption("minutes")
    seen: list[tuple[float, int]] = []
    for memory, files in rounds(suite, tmp_path / "out"):
        seen.append((memory, files))
        if len(seen) >= ROUNDS and time.monotonic() > end:
            break
    _, second, last = np.array_split(np.array(seen), 3)
    assert last[:, 1].max() == second[:, 1].max()
    assert last[:, 0].mean() < (1 + MORE) * second[:, 0].mean()
    row = {"minutes": request.config.getoption("minutes"), "rounds": len(seen)}
    thirds = {f"MB, {name} third": f"{part[:, 0].mean():.1f}" for name, part in (("second", second), ("last", last))}
    figures.add("A suite in a loop", {**row, **thirds, "open files": int(last[:, 1].max())})
