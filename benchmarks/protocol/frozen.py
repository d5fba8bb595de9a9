"""A method's time-averaged weights as constants: does adapting help, or only the average?"""

from __future__ import annotations

from benchmarks.catalog import weighter_class
from benchmarks.harness.plan import CONTROLS
from benchmarks.record import Run, RunSpec, WeighterSpec

DIGITS = 6
"""Of the averaged weights, so that the last bits of a sum do not make another run of the same constants."""


def frozen_run(run: Run) -> RunSpec | None:
    """The run of the same seed under the weights of this run, meaned over its logged steps.

    None where it would say nothing: a method that does not adapt or is itself a control, a run that did not finish, replicas
    (each would have constants of its own), and weights below 0, which no static weighting has.
    """
    spec = run.record.run
    adapts = weighter_class(spec.weighter.name).adaptive and spec.weighter.name not in CONTROLS
    if spec.role != "method" or not adapts or run.record.state != "finished" or run.trajectory["replica"].nunique() > 1:
        return None
    means = run.trajectory.groupby("task")["weight"].mean()
    weights = [round(float(means[task]), DIGITS) for task in run.record.tasks]
    if min(weights) < 0 or sum(weights) <= 0:
        return None
    static = weighter_class("static")
    constants = WeighterSpec(
        name=static.name, version=static.version, label=spec.weighter.label, hyperparameters={"weights": weights}
    )
    return spec.model_copy(update={"weighter": constants, "role": "frozen"})
