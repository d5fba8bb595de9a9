"""Four regressions as a maintainer might make them, each a patch on the running code that names the method it breaks.

``python -m benchmarks.regression.planted`` trains the suite ``quick`` under each and writes what the quality gate alone says
of it to ``check/planted.md`` of the reference. That ``check`` as a whole finds them is a test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from torch import Tensor, nn

import weighting
from benchmarks.analysis.table import Column, Table
from benchmarks.catalog import make_problem
from benchmarks.contract import Problem
from benchmarks.harness import step
from benchmarks.harness.loop import Loop
from benchmarks.harness.shared_norms import SharedLayerNorms
from benchmarks.harness.worker import weighter_of
from benchmarks.records.files import write
from benchmarks.records.schema import Run
from benchmarks.regression import baseline, quality
from benchmarks.report.formatting import markdown_rows
from weighting import Observation, Weighter
from weighting.coba import CoBa
from weighting.dwa import DynamicWeightAverage, loss_ratio
from weighting.famo import Famo

REFERENCE = Path("results") / "reference"


class SlopeFlipped(CoBa):
    """The sign of the slopes."""

    def _scores(self, slopes: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        return super()._scores(-slopes, live)


class RatioUpsideDown(DynamicWeightAverage):
    """The older window by the newer."""

    def _ratio(self) -> Tensor:
        return loss_ratio(self.previous.where(~self.previous.isnan(), self.last), self.last)


class TenTimesTooFast(Famo):
    """The learning rate of the logits."""

    def update(self, after: Observation) -> None:
        """As always, with another rate."""
        self.optimizer.lr = 0.25
        super().update(after)


class AtTheWrongLayer(SharedLayerNorms):
    """Measures at the first layer with parameters instead of the last shared one; of its kind, where rows are read off."""

    def __init__(self, problem: Problem, model: nn.Module, chosen: Sequence[str] | None = None) -> None:
        kind = type(problem.shared_layer(model)) if problem.rows_belong_to_tasks else nn.Module
        layers = [layer for layer in model.modules() if isinstance(layer, kind) and list(layer.parameters(recurse=False))]
        with mock.patch.object(problem, "shared_layer", lambda _: layers[0]):
            super().__init__(problem, model, chosen)


def _class_instead(kind: type[Weighter]) -> Callable[[], AbstractContextManager[object]]:
    """A patch that puts a class in the place of the listed one of its name."""
    return lambda: mock.patch.dict(weighting.METHODS, {kind.name: kind})


@dataclass(frozen=True)
class Planted:
    """A regression and the method that it breaks."""

    what: str
    method: str
    patch: Callable[[], AbstractContextManager[object]]
    """The code is broken inside the context, and whole again after it."""
    variants: tuple[str, ...] = ()
    """Those of its variants that it breaks too."""


PLANTED = (
    Planted("CoBa's slope with its sign flipped", "coba", _class_instead(SlopeFlipped)),
    Planted("FAMO's learning rate ten times too large", "famo", _class_instead(TenTimesTooFast)),
    Planted("DWA's ratio upside down", "dwa", _class_instead(RatioUpsideDown)),
    Planted(
        "GradNorm measured at the wrong layer",
        "gradnorm",
        lambda: mock.patch.object(step, "SharedLayerNorms", AtTheWrongLayer),
        ("gradnorm_libmtl",),
    ),
)


def trained(run: Run) -> Run:
    """The run with the metrics that the present code, patched or not, gives it: trained in this process."""
    spec = run.record.run
    problem = make_problem(spec.problem.name, spec.problem.tasks, spec.problem.options)
    data = problem.data(spec.seed, spec.training)
    weighter, _ = weighter_of(spec, problem, data)
    outcome = Loop(problem, data, weighter, spec.training, spec.seed, device=torch.device("cpu")).run()
    metrics = {"validation": outcome.validation, "test": outcome.test}
    return Run(run.record.model_copy(update={"metrics": metrics}), run.trajectory)


def quality_alone(base: baseline.RecordSet, planted: Sequence[Planted]) -> list[list[str]]:
    """A row for each problem and regression: as it is, then as it is planted."""
    rows = []
    for each in planted:
        for key, methods in base.by_conditions.items():
            runs, problem = methods[each.method], base.sections[key].name
            unchanged = {seed: trained(run) for seed, run in runs.items()}
            with each.patch():
                broken = {seed: trained(run) for seed, run in runs.items()}
            for what, now in (("none", unchanged), (each.what, broken)):
                verdict = quality.judge(problem, each.method, methods, each.method, now)
                rows.append([problem, each.method, what, verdict.state, verdict.reason])
                print(*rows[-1], sep=" | ", flush=True)
    return rows


def main() -> None:
    """Train and write the table."""
    torch.set_num_threads(1)
    rows = quality_alone(baseline.read(REFERENCE / "quick"), PLANTED)
    header = ("problem", "method", "regression", "quality gate", "reason")
    shown = tuple(Column(name, name) for name in header)
    lines = [
        "# What the quality gate alone says of planted regressions",
        "",
        "Suite quick, against its recorded runs. The weights that `check` replays show all of them, whatever the quality.",
        "",
        markdown_rows(Table("planted", "Planted regressions", "", shown, pd.DataFrame(rows, columns=header))),
    ]
    write(REFERENCE / "check" / "planted.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
