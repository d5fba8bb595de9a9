"""A plain PyTorch training loop with a weighter: two regressions of very different scale on one trunk.

After ``pip install .``: ``python examples/plain_pytorch.py``. It prints each task's loss and weight every 50 steps.
"""

from __future__ import annotations

import torch
from torch import nn

import weighting
from weighting import Observation

STEPS, TASKS = 300, ("sine", "square")


def main() -> None:
    """Train for a few seconds on the CPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, len(TASKS)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    weighter = weighting.create("uncertainty", num_tasks=len(TASKS))

    for step in range(STEPS):
        inputs = 4 * torch.rand(128, 1) - 2
        targets = torch.cat([inputs.sin(), 10 * inputs**2], dim=1)
        losses = ((model(inputs) - targets) ** 2).mean(0)  # (2,), one loss per task
        now = Observation(losses=losses)
        if step == 0:
            weighter.start(now)
        weights = weighter.weights(now)  # (2,), no gradient
        optimizer.zero_grad()
        weighting.total(weights, losses).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        weighter.update(now)
        if step % 50 == 0 or step == STEPS - 1:
            rows = zip(TASKS, losses.tolist(), weights.tolist(), strict=True)
            print(f"step {step:3d}", *(f"{task}: loss {loss:.4f} weight {weight:.4f}" for task, loss, weight in rows))


if __name__ == "__main__":
    main()
