"""The best of the trials of each method and each single-task baseline, on the seeds of the comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from benchmarks.analysis.selection_score import score
from benchmarks.records.schema import COMPARED, TRIAL_ROLES, TUNED_ROLES, Run, RunSpec


def tuned_runs(planned: Sequence[RunSpec], recorded: Sequence[Run]) -> list[RunSpec]:
    """Of all whose trials are recorded, the best trial on each seed of the comparison.

    A trial that did not finish loses; where none finished there are no tuned runs. Of equally good ones the first counts.
    """
    found = []
    by_key = {run.record.key: run for run in recorded}
    for group in _by_method(planned):
        trials = [spec for spec in group if spec.role in TRIAL_ROLES]
        if not trials or any(spec.key not in by_key for spec in trials):
            continue
        best = min(trials, key=lambda spec: validation_score(by_key[spec.key]))
        if not math.isfinite(validation_score(by_key[best.key])):
            continue
        tuned = TUNED_ROLES[TRIAL_ROLES.index(best.role)]
        found += [best.model_copy(update={"seed": spec.seed, "role": tuned}) for spec in group if spec.role in COMPARED]
    return found


def validation_score(run: Run) -> float:
    """The score (see ``analysis.selection_score``) at the selected step; infinite for a run that did not finish."""
    selection = run.record.selection
    if run.record.state != "finished" or selection is None:
        return math.inf
    steps, losses = run.values("val_loss")
    at = losses[steps == selection.step]
    return float(score(at[0], losses[0])) if len(at) and steps[0] == 0 else math.inf


def _by_method(planned: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """The runs of one problem and label, whatever their settings."""
    groups: dict[str, list[RunSpec]] = {}
    for spec in planned:
        problem = spec.problem.model_dump(mode="json")
        groups.setdefault(json.dumps([problem, spec.weighter.label], sort_keys=True), []).append(spec)
    return list(groups.values())
