"""What a command and all its processes take: none is lost, whether somebody waits for it or not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.overhead.short_runs import _cpu_and_wall

pytestmark = pytest.mark.slow

BUSY = "import time\nwhile time.process_time() < 0.6: pass"
COMMAND = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
{wait}
time.sleep(0.3)
"""
LEFT = "os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)"
"""It has ended, and nobody has asked how."""


@pytest.mark.parametrize("wait", ["child.wait()", LEFT], ids=["waited for", "not waited for"])
def test_processes_below_a_command_count(wait: str) -> None:
    cpu, _ = _cpu_and_wall([sys.executable, "-c", COMMAND.format(wait=wait), BUSY])
    assert cpu >= 0.55


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        _cpu_and_wall([sys.executable, "-c", "raise SystemExit(3)"])
