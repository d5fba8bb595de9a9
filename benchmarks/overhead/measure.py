"""What a method and a whole command cost: measured side by side, written as tables, never asserted in tests."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.overhead.short_runs import METHODS, PROBLEM, SEEDS, STEPS, short_runs
from benchmarks.overhead.steps import step_costs
from benchmarks.overhead.weighter_steps import weight_costs
from benchmarks.records import provenance
from benchmarks.records.files import write


def write_costs(out: Path, device: torch.device) -> str:
    """Measure, write ``overhead/overhead.md`` and CSV files under ``out``, and return the text. Raises OSError."""
    machine = provenance.machine(device)
    steps, weights, short = step_costs(device), weight_costs(device), short_runs()
    text = "\n".join(
        [
            "# What a step costs",
            "",
            "Each weighter's training step over a hand-written PyTorch step with equal weights, in blocks that take turns",
            "in one process: median ratio over the blocks, with its quartiles. `allowed` is what the suite aims at.",
            "",
            steps.to_markdown(index=False),
            "",
            "The weights alone: one `update` and one `weights` of CoBa, in milliseconds, after so many steps.",
            "",
            weights.to_markdown(index=False),
            "",
            f"A short comparison, {len(METHODS)} methods x {SEEDS} seeds of {STEPS} steps on `{PROBLEM}`: the whole command",
            "with its report, on the CPU, beside loops written by hand; both in turns, all their processes counted.",
            "",
            short.to_markdown(index=False),
            "",
            f"Measured on {machine['processor']} ({machine['device']}), {machine['threads']} thread(s), "
            f"torch {torch.__version__}, commit {provenance.commit()}.",
            "",
        ]
    )
    folder = out / "overhead"
    write(folder / "overhead.md", text)
    write(folder / "steps.csv", steps.to_csv(index=False))
    write(folder / "weights.csv", weights.to_csv(index=False))
    write(folder / "short_runs.csv", short.to_csv(index=False))
    return text
