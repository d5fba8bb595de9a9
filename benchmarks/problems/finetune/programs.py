"""Whether a program that a model wrote runs without an error: in a process of its own, within limits.

The limits keep mistakes small: time, memory, the size of files, and an empty folder to work in. They are no prison: the
program runs as the user who runs the suite, and can read what that user can read.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS, MEGABYTES, FILE_MEGABYTES, OPEN_FILES = 5, 512, 1, 32

GUARD = """
import resource, runpy, sys
seconds, memory, size, files = (int(number) for number in sys.argv[2:6])
for limit, value in (
    (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size),
    (resource.RLIMIT_NOFILE, files), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(limit, (value, value))
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""Sets the limits of its own process, then becomes the program."""


def passes(program: str, *, seconds: int = SECONDS, megabytes: int = MEGABYTES) -> bool:
    """Whether a Python program ends with exit code 0 within its limits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(program, encoding="utf-8", errors="replace")
        limits = [seconds, megabytes * 2**20, FILE_MEGABYTES * 2**20, OPEN_FILES]
        command = [sys.executable, "-I", "-c", GUARD, str(path), *map(str, limits)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0
