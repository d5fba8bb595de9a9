"""Stands for SLURM where there is none: as ``sbatch`` it starts the tasks of an array, really and all at once.

Three programs. ``sbatch [--array=A-B] SCRIPT ARGUMENTS`` runs the script once for each task, with what SLURM
puts into its environment and in a session of its own, starts a task again that asked for it, and ends when all have ended.
``srun OPTIONS COMMAND`` runs the command; ``scontrol requeue JOB_TASK`` asks for another start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

NAMES = ("sbatch", "srun", "scontrol")
JOB = "4711"


def install(folder: Path) -> str:
    """Put the three into a folder. Returns what the PATH has to be."""
    folder.mkdir()
    for name in NAMES:
        place = folder / name
        place.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            f"import slurm_stand_in\nsys.exit(slurm_stand_in.{name}(sys.argv[1:]))\n"
        )
        place.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def option(script: str, name: str) -> str:
    """What the script asks for. Raises AttributeError where it does not."""
    found = re.search(rf"^#SBATCH --{name}=(\S+)$", script, flags=re.MULTILINE)
    assert found is not None, f"expected #SBATCH --{name}=... in the script"
    return found[1]


def sbatch(arguments: list[str]) -> int:
    """The highest exit code of the tasks."""
    given = arguments.pop(0).removeprefix("--array=") if arguments[0].startswith("--array=") else ""
    script = Path(arguments[0]).read_text(encoding="utf-8")
    first, last = map(int, (given or option(script, "array")).split("-"))
    running = {task: _start(task, script, arguments) for task in range(first, last + 1)}
    codes = []
    while running:
        task, process = next(iter(running.items()))
        code = process.wait()
        del running[task]
        if _wish(task).exists():
            _wish(task).unlink()
            running[task] = _start(task, script, arguments)
        else:
            codes.append(code)
    return max(codes)


def _start(task: int, script: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    told = {"SLURM_ARRAY_JOB_ID": JOB, "SLURM_ARRAY_TASK_ID": str(task)}
    told["SLURM_CPUS_PER_TASK"] = option(script, "cpus-per-task")
    with Path(f"slurm-{JOB}_{task}.out").open("ab") as output:
        return subprocess.Popen(
            ["bash", *arguments], env={**os.environ, **told}, stdout=output, stderr=output, start_new_session=True
        )


def _wish(task: int) -> Path:
    return Path(f"requeue-{JOB}_{task}")


def srun(arguments: list[str]) -> int:
    """Takes the place of the command."""
    while arguments[0].startswith("--"):
        arguments.pop(0)
    os.execvp(arguments[0], arguments)


def scontrol(arguments: list[str]) -> int:
    """Leaves the wish for ``sbatch`` to find."""
    assert arguments[0] == "requeue", arguments
    Path(f"requeue-{arguments[1]}").touch()
    return 0
