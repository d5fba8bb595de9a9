"""``python -m benchmarks.overhead.by_hand``: the runs of a short comparison as loops that somebody writes without the suite.

A model, an optimizer, a method of ``weighting`` and its loop, run after run in one process, each scored once on test. No
records, no report, no evaluation on the way.
"""

from __future__ import annotations

import argparse

import torch

import weighting
from benchmarks.catalog import problem_class
from benchmarks.contract import Problem, Training
from benchmarks.harness.optimizer import make_optimizer
from weighting import Needs, Observation, RunFacts


def train(problem: Problem, name: str, seed: int, training: Training) -> dict[str, float]:
    """One run. Returns its metrics on test."""
    data, model = problem.data(seed, training), problem.model(seed)
    optimizer = make_optimizer(model, training)
    facts = RunFacts(training.steps, data.steps_per_epoch, data.num_validation_batches, seed=seed)
    weighter = weighting.create(name, problem.num_tasks, **weighting.method(name).defaults_for(facts))
    shared = problem.shared_layer(model)
    layer = shared if isinstance(shared, torch.nn.Module) else torch.nn.ModuleList(shared)
    for step in range(training.steps):
        batch = data.train_batch(step)
        losses = problem.losses(model, batch)
        now = Observation(losses=losses)
        if step == 0:
            weighter.start(now)
        wants, seen = weighter.wants(), {}
        if Needs.GRAD_NORMS in wants:
            seen["grad_norms"] = weighting.gradient_norms(losses, layer.parameters())
        optimizer.zero_grad(set_to_none=True)
        weighting.total(weighter.weights(now), losses).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if Needs.LOSSES_AFTER_STEP in wants:
            with torch.no_grad():
                seen["losses_after"] = problem.losses(model, batch)
        weighter.update(now.replace(**seen))
    model.eval()
    with torch.no_grad():
        return problem.evaluate(model, data.batches("test")).metrics


def main() -> None:
    """Train every method on every seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("problem")
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kind = problem_class(options.problem)
    training = kind.training.model_copy(update={"steps": options.steps})
    for name in options.methods:
        for seed in range(options.seeds):
            train(kind(), name, seed, training)


if __name__ == "__main__":
    main()
