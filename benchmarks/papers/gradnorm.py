"""GradNorm's ten regressions: GradNorm ends below equal weights and below uncertainty weighting.

Source    Chen et al., GradNorm, ICML 2018, arXiv:1711.02257v4, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.analysis.scores import Scores
from benchmarks.papers.claims import Experiment, Measured, below, means

SUMMED = "summed_relative_loss"
RIVALS = ("uniform", "uncertainty")
RULES = {"gradnorm": "GradNorm with weights kept at or above 0.001", "gradnorm[floor=0]": "GradNorm as it is written"}
"""Label -> which of its two rules it is."""


def measure(found: Mapping[str, Scores]) -> Measured:
    """Summed relative losses on test, and those of both of GradNorm's rules against its rivals'."""
    scored = found["gradnorm_toy"]
    checks = [
        check
        for label, rule in RULES.items()
        for check in below(scored, SUMMED, label, RIVALS, rule + " ends below {rival} in summed relative loss.")
    ]
    return Measured(means(scored, (*RIVALS, *RULES), [SUMMED]), tuple(checks))


EXPERIMENT = Experiment(
    problem="gradnorm_toy",
    protocol="gradnorm_toy",
    weighters=(*RIVALS, "gradnorm"),
    measure=measure,
    departures=(
        "The claim hangs on what happens to a weight that reaches 0. The paper's rule lets it cross, and a task with a "
        "negative weight is trained to be worse; its figure shows no such thing. So the rule is run twice: as it is "
        "written, and with every weight kept at or above 0.001.",
        "The paper gives neither the scale inside tanh nor the inputs' distribution; here tanh's argument has standard "
        "deviation 0.5 and inputs are standard normal.",
        "The paper names scales of 1 and 100 for two tasks; here ten are spread evenly in the logarithm between them.",
        "Data are finite, so that there are validation and test splits; the step with the best validation loss is scored.",
        "Optimizer, learning rate and number of steps are this project's choice.",
    ),
)
