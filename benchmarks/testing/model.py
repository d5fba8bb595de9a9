"""Checks of a problem's model, losses and evaluation. One docstring line each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.harness.shared_norms import SharedLayerNorms
from benchmarks.shared_layer import shared_layers
from benchmarks.testing.case import SPLITS, Case, different
from weighting.testing.expectations import all_finite, expect, same


def trained_parameters_are_float32(case: Case) -> None:
    """A model on the CPU, with parameters to train; those in float32, others as they like."""
    named = {name: value for name, value in case.model.named_parameters() if value.requires_grad}
    expect(named, "parameters with requires_grad", "none")
    for name, value in named.items():
        found = (value.dtype, value.device.type)
        expect(found == (torch.float32, "cpu"), f"parameter {name!r} in float32 on the CPU", found)


def initial_parameters_depend_on_the_seed_alone(case: Case) -> None:
    """Made again, and with fewer tasks, the model has the same parameters under the same names."""
    whole = dict(case.model.named_parameters())
    for other in (case.replace(), *case.fewer()):
        name = different(dict(other.model.named_parameters()), whole)
        words = "when made again" if other.tasks is None else f"with tasks={tuple(other.tasks)!r}"
        expect(
            name is None, f"the same initial parameters {words}: model(seed) draws from its seed alone", f"another {name!r}"
        )


def losses_have_the_right_shape_and_a_graph(case: Case) -> None:
    """(*batch_shape, K), finite where a task is there, at least float32; each task has a gradient at the shared layer."""
    parameters = _layer_parameters(case)
    moves = torch.zeros(case.shape, dtype=torch.bool)
    for step in case.steps:
        batch = case.data.train_batch(step)
        losses = case.problem.losses(case.model, batch)
        expect(tuple(losses.shape) == case.shape, f"losses of shape {case.shape}", tuple(losses.shape))
        expect(losses.dtype in (torch.float32, torch.float64), "losses in float32", losses.dtype)
        expect(losses.requires_grad, "losses with a graph", "none")
        counts = case.problem.counts(batch)
        there = torch.ones(case.shape, dtype=torch.bool) if counts is None else (counts > 0).expand(case.shape)
        all_finite(losses.detach()[there], f"losses of step {step}")
        norms = norms_one_by_one(losses, parameters)
        all_finite(norms[there], f"gradients of step {step}")
        moves |= norms > 0
    flat = moves.reshape(-1, moves.shape[-1]).any(0)
    still = [task for task, moved in zip(case.problem.tasks, flat, strict=True) if not moved]
    expect(not still, "a gradient of every task at the shared layer", f"none of {', '.join(still)}")


def losses_are_a_pure_function(case: Case) -> None:
    """The same numbers for the same draws; parameters and batch stay as they are; in evaluation mode, buffers too."""
    batch = case.data.train_batch(0)
    kept = {name: value.clone() for name, value in batch.items()}
    before = {name: value.clone() for name, value in case.model.named_parameters()}
    same(case.losses(batch), case.losses(batch), "a loss when asked again")
    case.model.eval()
    try:
        state = {name: value.clone() for name, value in case.model.state_dict().items()}
        one, other = (case.problem.losses(case.model, batch).detach() for _ in range(2))
        same(other, one, "in evaluation mode, a loss when asked again")
        name = different(dict(case.model.state_dict()), state)
        expect(name is None, "the model's state as it was after losses() in evaluation mode", f"another {name!r}")
    finally:
        case.model.train()
    name = different(dict(case.model.named_parameters()), before)
    expect(name is None, "parameters as they were after losses()", f"another {name!r}")
    name = different(batch, kept)
    expect(name is None, "the batch as it was after losses()", f"another {name!r}")


def evaluation_gives_every_metric(case: Case) -> None:
    """Every metric as a finite float, losses (*batch_shape, K) without a graph on the CPU; on all splits, and each time."""
    keys = [metric.key for metric in case.problem.metrics]
    for split in SPLITS:
        told = case.evaluation(split)
        expect(list(told.metrics) == keys, f"metrics {', '.join(keys)} on {split}", ", ".join(told.metrics))
        for key, value in told.metrics.items():
            expect(isinstance(value, float) and math.isfinite(value), f"{key} on {split} as a finite float", repr(value))
        expect(tuple(told.losses.shape) == case.shape, f"losses of {split} of shape {case.shape}", tuple(told.losses.shape))
        all_finite(told.losses, f"losses of {split}")
        plain = told.losses.device.type == "cpu" and not told.losses.requires_grad
        expect(plain, f"losses of {split} on the CPU without a graph", told.losses.device.type)
        again = case.evaluation(split)
        same(again.losses, told.losses, f"a loss of {split} when evaluated again")
        expect(again.metrics == told.metrics, f"the same metrics of {split} when evaluated again", "others")


def shared_layer_is_a_trained_part_of_the_model(case: Case) -> None:
    """A module, or several, of the model: with parameters to train, the same each time, with the replicas in front."""
    layers = shared_layers(case.problem, case.model, None)
    expect(layers and all(isinstance(layer, nn.Module) for layer in layers), "modules as the shared layer", layers)
    again = shared_layers(case.problem, case.model, None)
    expect([id(layer) for layer in layers] == [id(layer) for layer in again], "the same modules each time", "others")
    own = [value for layer in layers for value in layer.parameters() if value.requires_grad]
    expect(own, "a shared layer with parameters to train", "none")
    of_model = {id(value) for value in case.model.parameters()}
    expect(all(id(value) in of_model for value in own), "a shared layer that is part of the model", "another module")
    shape = tuple(case.problem.batch_shape)
    good = all(tuple(value.shape[: len(shape)]) == shape for value in own)
    expect(good, f"parameters of the shared layer with leading dimensions {shape}", [tuple(value.shape) for value in own])


def norms_of_a_step_are_those_of_the_gradients(case: Case) -> None:
    """What methods see of the gradients at the shared layer is true, by rows too where rows_belong_to_tasks says so."""
    for each in (case.replace(), case.replace(tasks=case.problem.tasks[:1])):
        norms = SharedLayerNorms(each.problem, each.model)
        for step in each.steps[:2]:
            batch = each.data.train_batch(step)
            norms.arm()
            losses = each.problem.losses(each.model, batch)
            expected = norms_one_by_one(losses, norms.parameters)
            weights = uneven(losses.detach())
            norms.before_backward(losses, weights, None)
            (weights * losses).sum().backward()  # type: ignore[no-untyped-call]
            norms.after_backward()
            same(norms.take(weights), expected, f"norms of gradients in step {step}", rtol=1e-4, atol=1e-6)


def gradients_of_tasks_are_where_the_problem_says(case: Case) -> None:
    """task_rows gives for each task the rows that its loss is of; shared_parameters names trained ones of the model."""
    named = case.problem.shared_parameters(case.model)
    if named is not None:
        of_model = {id(value) for value in case.model.parameters() if value.requires_grad}
        good = len(named) > 0 and all(id(value) in of_model for value in named)
        expect(good, "trained parameters of the model as shared_parameters", "none, or others")
    case.model.eval()
    try:
        for step in case.steps:
            _compare_rows(case, step)
    finally:
        case.model.train()


@torch.no_grad()
def _compare_rows(case: Case, step: int) -> None:
    batch = case.data.train_batch(step)
    parts = case.problem.task_rows(batch)
    if parts is None:
        return
    expect(len(parts) == case.problem.num_tasks, f"task_rows of {case.problem.num_tasks} tasks", len(parts))
    found = torch.stack([case.problem.losses(case.model, part).sum(-1) for part in parts], dim=-1)
    losses, counts = case.problem.losses(case.model, batch), case.problem.counts(batch)
    there = torch.ones(case.shape, dtype=torch.bool) if counts is None else (counts > 0).expand(case.shape)
    same(found[there], losses[there], f"losses over the rows of single tasks in step {step}", rtol=1e-4, atol=1e-6)


def probes_are_one_number_a_replica(case: Case) -> None:
    """probe() gives tensors of shape batch_shape without a graph."""
    for name, value in case.problem.probe(case.model).items():
        shape = tuple(case.problem.batch_shape)
        expect(tuple(value.shape) == shape, f"probe {name!r} of shape {shape}", tuple(value.shape))
        expect(not value.requires_grad, f"probe {name!r} without a graph", "one")


def uneven(losses: Tensor) -> Tensor:
    """Weights far from equal, one of them negative where there are several, of the shape of the losses."""
    weights = torch.linspace(0.05, 3.0, losses.numel()).reshape(losses.shape).to(losses)
    weights.view(-1)[-1] *= -1 if losses.shape[-1] > 1 else 1
    return weights


def _layer_parameters(case: Case) -> list[Tensor]:
    return SharedLayerNorms(case.problem, case.model).parameters


def norms_one_by_one(losses: Tensor, parameters: list[Tensor]) -> Tensor:
    """Norms ``(*batch_shape, K)``, each from a gradient of its own."""
    flat = losses.flatten()
    norms = torch.zeros_like(flat, requires_grad=False)
    for place in range(len(flat)):
        found = torch.autograd.grad(flat[place], parameters, retain_graph=True, allow_unused=True)
        squares = [gradient.double().square().sum() for gradient in found if gradient is not None]
        norms[place] = torch.stack(squares).sum().sqrt() if squares else 0.0
    return norms.reshape(losses.shape).detach()
