"""A method's time-averaged weights as constants: does adapting help, or only the average?"""

from __future__ import annotations

from benchmarks.catalog import weighter_class
from benchmarks.planning.plan import CONTROLS
from benchmarks.records.schema import Run, RunSpec, WeighterSpec

DIGITS = 6
"""Of the averaged weights, so that the last bits of a sum do not make another run of the same constants."""


def frozen_run(run: Run) -> RunSpec | None:
    """The run of the same seed under the weights of this run, meaned over the steps in which the task was there.

    None where it would say nothing: a method that does not adapt or is itself a control, a run that did not finish, replicas
    (each would have constants of its own), and weights below 0, which no static weighting has.
    """
    spec = run.record.run
    adapts = weighter_class(spec.weighter.name).adaptive and spec.weighter.name not in CONTROLS
    if spec.role != "method" or not adapts or run.record.state != "finished" or run.trajectory["replica"].nunique() > 1:
        return None
    weights = [round(mean, DIGITS) for mean in _mean_weights(run)]
    if min(weights) < 0 or sum(weights) <= 0:
        return None
    static = weighter_class("static")
    constants = WeighterSpec(
        name=static.name, version=static.version, label=spec.weighter.label, hyperparameters={"weights": weights}
    )
    return spec.model_copy(update={"weighter": constants, "role": "frozen"})


def _mean_weights(run: Run) -> list[float]:
    """Of every task over all steps in which it was there; 0 for one that never was."""
    means = run.record.mean_weights
    if means is not None:
        return [means.get(task, 0.0) for task in run.record.tasks]
    # Records that are older than the means over all steps: over the logged ones.
    logged = run.trajectory.groupby("task")["weight"].mean()
    return [float(logged[task]) for task in run.record.tasks]
