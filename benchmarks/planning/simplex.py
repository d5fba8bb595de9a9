"""Static weights spread over the simplex: the control that a Pareto front is drawn from."""

from __future__ import annotations

import itertools

import torch

from benchmarks.seeds import generator

SEED = 0
"""Of the draws beyond three tasks: the same weights in every suite."""


def simplex_weights(num_tasks: int, points: int) -> list[tuple[float, ...]]:
    """At most ``points`` weights with sum K, each above 0: a grid for two or three tasks, uniform random draws beyond.

    For three tasks the grid is the finest triangular one that has no more points. Raises ValueError for fewer than 2 tasks.
    """
    if num_tasks < 2:
        raise ValueError(f"expected at least 2 tasks to weigh against each other, found {num_tasks}")
    if num_tasks > 3:
        return _draws(num_tasks, points)
    parts = num_tasks
    while len(_compositions(parts + 1, num_tasks)) <= points:
        parts += 1
    return [tuple(round(num_tasks * part / parts, 6) for part in chosen) for chosen in _compositions(parts, num_tasks)]


def _compositions(parts: int, num_tasks: int) -> list[tuple[int, ...]]:
    """Every way to share ``parts`` among the tasks so that each has at least one."""
    cuts = itertools.combinations(range(1, parts), num_tasks - 1)
    return [tuple(end - begin for begin, end in itertools.pairwise((0, *cut, parts))) for cut in cuts]


def _draws(num_tasks: int, points: int) -> list[tuple[float, ...]]:
    # Exponential variables over their sum are uniform on the simplex.
    sizes = -torch.rand(points, num_tasks, generator=generator(SEED, "simplex"), dtype=torch.float64).log()
    shares = num_tasks * sizes / sizes.sum(-1, keepdim=True)
    return [tuple(round(share, 6) for share in point) for point in shares.tolist()]
