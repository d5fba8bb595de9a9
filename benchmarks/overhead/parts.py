"""The parts of the cost page: what each measures, and what is said above its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from benchmarks.overhead import adapter_steps, finetune_steps, short_runs, small_llama
from benchmarks.overhead.anchors import libraries
from benchmarks.overhead.gramian_steps import gramian_costs, methods
from benchmarks.overhead.steps import step_costs
from benchmarks.overhead.weighter_steps import gramian_weight_costs, weight_costs


@dataclass(frozen=True)
class Part:
    """A section of the page, and a table."""

    heading: str
    says: Callable[[], str]
    measure: Callable[[torch.device], pd.DataFrame]
    is_installed: Callable[[], bool] = lambda: True
    extras: str = ""
    """What has to be installed for it."""


def _steps() -> str:
    return (
        "Each weighter's training step over a hand-written PyTorch step with equal weights, in blocks that take turns\n"
        "in one process: median ratio over the blocks, with its quartiles. `allowed` is what the suite aims at."
    )


def _weights() -> str:
    return "One `update` and one `weights` of CoBa, in milliseconds, after so many steps."


def _gramian() -> str:
    others = ", ".join(f"{name} {version}" for name, version in libraries().items()) or "none"
    return (
        "Methods on the Gramian of the tasks' gradients: a step over uniform's in the same harness, in turns. `code_lm`\n"
        "has rows of one task each: one backward pass gives the gradients of all. Elsewhere each task takes a pass.\n"
        f"In brackets, the same methods of other libraries, where installed: {others}."
    )


def _gramian_weights() -> str:
    return "One `update` and one `weights`, in milliseconds."


def _short() -> str:
    return (
        f"A short comparison, {len(short_runs.METHODS)} methods x {short_runs.SEEDS} seeds of {short_runs.STEPS} steps on "
        f"`{short_runs.PROBLEM}`: the whole command\n"
        "with its report, on the CPU, beside loops written by hand; both in turns, all their processes counted."
    )


def _adapters() -> str:
    return (
        "Each adapter of `weighting.integrations`, a step over the same trainer without weights: a small Llama,\n"
        f"two micro-batches of {small_llama.ROWS} rows of {small_llama.TOKENS} tokens, or one; rows of one task each.\n"
        "CoBa's validation batch is as large as the step. FAMO's weights follow from the losses of the whole step: a pass\n"
        "for every micro-batch but the first, before the first backward pass, and one for each after the step; `lagged`\n"
        "takes those of the last step."
    )


def _finetuning() -> str:
    return (
        "Fine-tuning SmolLM2-135M-Instruct, five tasks, one example each: LoRA of rank "
        f"{finetune_steps.RANK} in the last {finetune_steps.LAYERS} layers,\n"
        "bfloat16. All ways take turns in one process. `by hand` is a loop with transformers and peft that\n"
        "applies the output embedding where a token is learned alone; with all logits, as a model's own loss. `Trainer`\n"
        "is transformers' own, the time between its steps included. Peak memory is that of a process of its own. A forward\n"
        "pass goes through all layers, a backward pass through the adapted ones: one more of the former is half a step.\n"
        "`cached`: what the frozen layers make of an example is computed once, by the loop by hand too; the ratio is to it."
    )


PARTS: dict[str, Part] = {
    "steps": Part("A training step", _steps, step_costs),
    "weights": Part("The weights alone", _weights, weight_costs),
    "gramian_steps": Part("Methods on the Gramian", _gramian, gramian_costs),
    "gramian_weights": Part("Their weights alone", _gramian_weights, lambda device: gramian_weight_costs(methods(), device)),
    "short_runs": Part("A short comparison", _short, lambda device: short_runs.short_runs()),
    "adapter_steps": Part(
        "Adapters", _adapters, adapter_steps.adapter_costs, adapter_steps.installed, "the extras `trl` and `lightning`"
    ),
    "finetune_steps": Part(
        "Fine-tuning",
        _finetuning,
        finetune_steps.finetune_costs,
        finetune_steps.installed,
        "the extra `finetune` (`make finetune` installs it)",
    ),
}
"""By name, which is that of the table's files, in the order of the page."""
