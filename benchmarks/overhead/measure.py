"""What a method costs: measured side by side in one process, written as tables, never asserted in tests."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.overhead.steps import step_costs
from benchmarks.overhead.weighter_steps import weight_costs
from benchmarks.records import provenance
from benchmarks.records.files import write


def write_costs(out: Path, device: torch.device) -> str:
    """Measure, write ``overhead/overhead.md`` and two CSV files under ``out``, and return the text. Raises OSError."""
    machine = provenance.machine(device)
    steps, weights = step_costs(device), weight_costs(device)
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
            f"Measured on {machine['processor']} ({machine['device']}), {machine['threads']} thread(s), "
            f"torch {torch.__version__}, commit {provenance.commit()}.",
            "",
        ]
    )
    folder = out / "overhead"
    write(folder / "overhead.md", text)
    write(folder / "steps.csv", steps.to_csv(index=False))
    write(folder / "weights.csv", weights.to_csv(index=False))
    return text
