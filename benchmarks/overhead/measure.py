"""What a method and a whole command cost: measured side by side, written as tables, never asserted in tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from benchmarks.analysis.table import Column, Table
from benchmarks.overhead import adapter_steps
from benchmarks.overhead.anchors import libraries
from benchmarks.overhead.finetune_steps import LAYERS, RANK, finetune_costs, installed
from benchmarks.overhead.gramian_steps import gramian_costs, methods
from benchmarks.overhead.short_runs import METHODS, PROBLEM, SEEDS, STEPS, short_runs
from benchmarks.overhead.steps import step_costs
from benchmarks.overhead.weighter_steps import gramian_weight_costs, weight_costs
from benchmarks.records import provenance
from benchmarks.records.files import write
from benchmarks.report.formatting import markdown_rows
from benchmarks.report.table_files import write_data


def write_costs(out: Path, device: torch.device) -> str:
    """Measure, write ``overhead/overhead.md`` and CSV and LaTeX files under ``out``, and return the text. Raises OSError."""
    machine = provenance.machine(device)
    steps = _table("steps", step_costs(device))
    weights = _table("weights", weight_costs(device))
    gramian = _table("gramian_steps", gramian_costs(device))
    gramian_weights = _table("gramian_weights", gramian_weight_costs(methods(), device))
    short = _table("short_runs", short_runs())
    adapters = _table("adapter_steps", adapter_steps.adapter_costs(device)) if adapter_steps.installed() else None
    finetuning = _table("finetune_steps", finetune_costs(device)) if installed() else None
    text = "\n".join(
        [
            "# What a step costs",
            "",
            "Each weighter's training step over a hand-written PyTorch step with equal weights, in blocks that take turns",
            "in one process: median ratio over the blocks, with its quartiles. `allowed` is what the suite aims at.",
            "",
            markdown_rows(steps),
            "",
            "The weights alone: one `update` and one `weights` of CoBa, in milliseconds, after so many steps.",
            "",
            markdown_rows(weights),
            "",
            "Methods on the Gramian of the tasks' gradients: a step over uniform's in the same harness, in turns. `code_lm`",
            "has rows of one task each: one backward pass gives the gradients of all. Elsewhere each task takes a pass.",
            f"In brackets, the same methods of other libraries, where installed: {_libraries()}.",
            "",
            markdown_rows(gramian),
            "",
            "Their weights alone, in milliseconds: one `update` and one `weights`.",
            "",
            markdown_rows(gramian_weights),
            "",
            f"A short comparison, {len(METHODS)} methods x {SEEDS} seeds of {STEPS} steps on `{PROBLEM}`: the whole command",
            "with its report, on the CPU, beside loops written by hand; both in turns, all their processes counted.",
            "",
            markdown_rows(short),
            "",
            *_adapters(adapters),
            "",
            *_finetuning(finetuning),
            "",
            f"Measured on {machine['processor']} ({machine['device']}), {machine['threads']} thread(s), "
            f"torch {torch.__version__}, commit {provenance.commit()}.",
            "",
        ]
    )
    folder = out / "overhead"
    write(folder / "overhead.md", text)
    for table in (steps, weights, gramian, gramian_weights, short, adapters, finetuning):
        if table is not None:
            write_data(folder, table)
    return text


def _libraries() -> str:
    return ", ".join(f"{name} {version}" for name, version in libraries().items()) or "none"


def _adapters(table: Table | None) -> list[str]:
    if table is None:
        return ["The adapters were not measured: they need the extras `trl` and `lightning`."]
    return [
        "Each adapter of `weighting.integrations`, a step over the same trainer without weights: a small Llama,",
        f"{adapter_steps.ACCUMULATION} micro-batches of {adapter_steps.ROWS} rows of {adapter_steps.TOKENS} tokens, rows of "
        "one task each. CoBa's validation batch is as large as the step.",
        "",
        markdown_rows(table),
    ]


def _finetuning(table: Table | None) -> list[str]:
    if table is None:
        return ["Fine-tuning was not measured: it needs the extra `finetune` (`make finetune` installs it)."]
    return [
        f"Fine-tuning SmolLM2-135M-Instruct, five tasks, one example each: LoRA of rank {RANK} in the last {LAYERS} layers,",
        "bfloat16, nothing cached. All ways take turns in one process. `by hand` is a loop with transformers and peft that",
        "applies the output embedding where a token is learned alone; with all logits, as a model's own loss. `Trainer`",
        "is transformers' own, the time between its steps included. Peak memory is that of a process of its own. A forward",
        "pass goes through all layers, a backward pass through the adapted ones: one more of the former is half a step.",
        "",
        markdown_rows(table),
    ]


DECIMALS = {"tasks": 0, "peak MB": 0, "CPU s": 1, "wall s": 1, "allowed": 2, "CPU by hand = 1": 2}
"""Of columns with other than three."""


def _table(name: str, frame: pd.DataFrame) -> Table:
    columns = (Column(str(key), str(key), decimals=DECIMALS.get(str(key), 3)) for key in frame.columns)
    return Table(name, name, "", tuple(columns), frame)
