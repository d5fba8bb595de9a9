"""The optimizer of the model, from the training settings."""

from __future__ import annotations

import math

import torch
from torch import nn

from benchmarks.contract import Training


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer of the training settings over all trainable parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=training.lr, weight_decay=training.weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, training: Training, step: int) -> None:
    """The learning rate of a step: that of the schedule, after the warm-up."""
    lr = training.lr * _factor(training, step)
    for group in optimizer.param_groups:
        group["lr"] = lr


def _factor(training: Training, step: int) -> float:
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    share = (step - training.warmup_steps) / (training.steps - training.warmup_steps)
    if training.lr_schedule == "cosine":
        return 0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2
    return 1 - share if training.lr_schedule == "linear" else 1.0
