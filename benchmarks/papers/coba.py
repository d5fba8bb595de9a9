"""CoBa: the tasks converge evenly, at small cost, and the result is better than that of any rival.

Source    Gong et al., CoBa, EMNLP 2024, arXiv:2410.06741, abstract. The paper's tables could not be read. The authors'
          settings: codefuse-ai/MFTCoder, 8ba13f44, configuration (warm-up 100, window 200) and README (a warm-up of about
          the validation batches, a window two to five times as long).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.analysis.scores import PRICE, RELATIVE, SPREAD, Scores
from benchmarks.papers.claims import Check, Experiment, Measured, Ours, below, best_of, label_of, means
from benchmarks.problems.finetune.built_in import EXAMPLES
from benchmarks.records.schema import Floats, Run

MEAN = "mean_bits_per_byte"
"""Over the tasks, on test."""
LATE = "late_weight_of_the_smallest_task"
"""Mean over the last quarter of the run."""
RISEN = "rise_of_the_smallest_task"
"""Its validation loss at the end, relative to its lowest, minus 1."""

BY_ADVICE, CONFIGURED = "coba", "coba[warmup=100, window=200]"
SETTINGS = {BY_ADVICE: "CoBa by its authors' advice", CONFIGURED: "CoBa as its authors configure it"}
FAMO_BY_VALIDATION = "famo[losses_from=validation]"
ADAPTIVE = ("gradnorm", "lbtw", "famo", FAMO_BY_VALIDATION)
CONSTANT = ("uniform", "token_mean")
DEAR = "metaweighting"
"""Its steps take several of a uniform one's: it is not tuned, and not fine-tuned with."""
FROM_SCRATCH = ("uniform", *ADAPTIVE, DEAR)
FINETUNED = ("uniform", "token_mean", *ADAPTIVE)
EQUAL = "equal"
"""How finetune_lm draws tasks unless told otherwise."""
SMALLEST = min(EXAMPLES, key=lambda task: EXAMPLES[task])
"""The task with the fewest training examples."""


def from_scratch(found: Mapping[str, Scores]) -> Measured:
    """Means, spreads, prices and costs on code_lm, at the default settings and at tuned ones."""
    scored = _with_mean(found["code_lm"])
    tuned = ("uniform", "static", *ADAPTIVE)
    checks = [
        *_even(scored, FROM_SCRATCH),
        *_cheap(scored, FROM_SCRATCH),
        *_best(scored, FROM_SCRATCH),
        *_best_tuned(scored, tuned),
    ]
    columns = [MEAN, SPREAD, PRICE, RELATIVE]
    return Measured(
        (*means(scored, (*FROM_SCRATCH, *SETTINGS), columns), *_tuned_means(scored, (*tuned, BY_ADVICE))),
        tuple(checks),
        tuple(_warmups(scored)),
    )


def finetuned(found: Mapping[str, Scores]) -> Measured:
    """The same on finetune_lm at the default settings, with other ways to draw tasks, and where FAMO's weight goes."""
    by_sampling = {_sampling(each): _smallest(_with_mean(each)) for each in found.values()}
    drawn = {f"uniform[sampling={sampling}]": each for sampling, each in by_sampling.items() if sampling != EQUAL}
    scored = _joined(by_sampling[EQUAL], drawn)
    rivals = (*FINETUNED, *drawn)
    return Measured(
        means(scored, (*rivals, *SETTINGS), [MEAN, SPREAD, PRICE, RELATIVE, LATE, RISEN]),
        (*_even(scored, FINETUNED), *_cheap(scored, FINETUNED), *_best(scored, rivals), *_memorised(scored)),
        tuple(_warmups(scored)),
    )


# ---- claims ----------------------------------------------------------------------------------------------------------


def _even(scored: Scores, rivals: Sequence[str]) -> list[Check]:
    return [
        *below(scored, SPREAD, BY_ADVICE, rivals, "CoBa's tasks converge more evenly than under {rival}."),
        *below(scored, PRICE, BY_ADVICE, rivals, "One checkpoint costs CoBa's tasks less than under {rival}."),
    ]


def _cheap(scored: Scores, rivals: Sequence[str]) -> tuple[Check, ...]:
    """Constants cost nothing, so that no method can be cheaper."""
    adaptive = [rival for rival in rivals if rival not in CONSTANT]
    return below(scored, RELATIVE, BY_ADVICE, adaptive, "A step of CoBa costs less than one of {rival}.")


def _best(scored: Scores, rivals: Sequence[str]) -> list[Check]:
    rival = best_of(scored, MEAN, rivals)
    return [
        check
        for label, words in SETTINGS.items()
        for check in below(
            scored, MEAN, label, [rival], words + " ends with fewer bits per byte than {rival}, the best rival."
        )
    ]


def _best_tuned(scored: Scores, rivals: Sequence[str]) -> tuple[Check, ...]:
    rival = best_of(scored, MEAN, rivals, role="tuned")
    claim = "Tuned CoBa ends with fewer bits per byte than tuned {rival}, the best rival."
    return below(scored, MEAN, BY_ADVICE, [rival], claim, role="tuned")


def _memorised(scored: Scores) -> list[Check]:
    late = f"Late in training {{rival}} gives {SMALLEST}, the task with the fewest examples, more than an equal share."
    risen = f"The validation loss of {SMALLEST} ends further above its lowest under {{rival}} than under equal weights."
    fed = f"Fed with validation losses, FAMO gives {SMALLEST} less than {{rival}} with training losses does."
    return [
        *below(scored, LATE, "uniform", ["famo"], late),
        *below(scored, RISEN, "uniform", ["famo"], risen),
        *below(scored, LATE, FAMO_BY_VALIDATION, ["famo"], fed),
    ]


def _warmups(scored: Scores) -> list[str]:
    """Whether CoBa began to act before the first task had turned."""
    turned = sorted(_first_turn(run) for run in scored.section.finished(label_of(scored.section, "uniform")))
    if not turned:
        return []
    notes = []
    for label, words in SETTINGS.items():
        for run in scored.section.finished(label_of(scored.section, label))[:1]:
            end = run.record.resolved["warmup"]
            late = "" if end < turned[0] else " The warm-up did not end before that."
            notes.append(
                f"{words}: the warm-up ends at step {end}; under equal weights the first task turns at step "
                f"{turned[0]} to {turned[-1]}, by seed.{late}"
            )
    return notes


def _first_turn(run: Run) -> int:
    """The earliest step at which a task's validation loss is lowest."""
    steps, losses = run.values("val_loss")
    return int(steps[np.nanargmin(losses, axis=0)].min())


# ---- numbers of runs -------------------------------------------------------------------------------------------------


def _with_mean(scored: Scores) -> Scores:
    keys = [info.key for info in scored.section.primary]
    return replace(scored, frame=scored.frame.assign(**{MEAN: scored.frame[keys].mean(axis=1, skipna=False)}))


def _sampling(scored: Scores) -> str:
    value = scored.section.problem.options.get("sampling", EQUAL)
    return f"temperature {value['temperature']:g}" if isinstance(value, dict) else str(value)


def _joined(scored: Scores, others: Mapping[str, Scores]) -> Scores:
    """With the uniform runs of other sections, under labels of their own: what they were tested on is the same."""
    # Their own uniform run is what their seconds are relative to.
    changes: dict[str, dict[str, Any]] = {label: {"method": label, RELATIVE: float("nan")} for label in others}
    rows = [each.of("method", "uniform").assign(**changes[label]) for label, each in others.items()]
    return replace(scored, frame=pd.concat([scored.frame, *rows], ignore_index=True))


def _smallest(scored: Scores) -> Scores:
    runs = {run.record.key: run for run in scored.section.runs.values()}
    place = scored.section.tasks.index(SMALLEST)

    def of(number: partial[float], key: str) -> float:
        return number(runs[key]) if key in runs else float("nan")

    found = {LATE: partial(_late_weight, place=place), RISEN: partial(_rise, place=place)}
    columns = {name: [of(number, key) for key in scored.frame["run"]] for name, number in found.items()}
    return replace(scored, frame=scored.frame.assign(**columns))


def _late_weight(run: Run, place: int) -> float:
    steps, weights = run.values("weight")
    return float(weights[steps >= 0.75 * run.record.run.training.steps, :, place].mean())


def _rise(run: Run, place: int) -> float:
    _, losses = run.values("val_loss")
    own: Floats = losses[:, :, place]
    return float((own[-1] / np.nanmin(own, axis=0)).mean() - 1)


def _tuned_means(scored: Scores, methods: Sequence[str]) -> list[Ours]:
    return [replace(each, method=f"{each.method}, tuned") for each in means(scored, methods, [MEAN], role="tuned")]


_MEASURE = "What counts as even (convergence spread, price of one checkpoint) is this project's measure."
_ONE_EXAMPLE = "A validation batch is one example of each task, as a training batch is; larger ones were not tried."
_READING = (
    "MetaWeighting is this project's reading of its paper, whose text and code were not to be had; it learns from the "
    "gradients of validation batches, and has no form without."
)
_SECONDS = (
    "Seconds depend on what else the machine does; they are relative to equal weights on the same seed, where the two runs "
    "were trained together."
)

EXPERIMENTS = (
    Experiment(
        problem="code_lm",
        protocol="coba_code_lm",
        weighters=("uniform", "static", "gradnorm", "lbtw", "famo", "metaweighting", "coba"),
        measure=from_scratch,
        departures=(
            "A small model is trained from scratch on code in five languages; the paper fine-tunes large ones on its "
            "own data.",
            "Of the rivals' forms with validation losses FAMO's is here; those of all are in the suite val_feedback. "
            "token_mean is uniform here, since every example has as many tokens.",
            "Tuned: the best of six trials by validation, over learning rates and each method's search space; CoBa's has "
            "window and tau, that of static weights ten vectors. MetaWeighting is not tuned: the whole would take more than "
            "five hours.",
            _MEASURE,
            _READING,
            _SECONDS,
        ),
    ),
    Experiment(
        problem="finetune_lm",
        protocol="coba_finetune_lm",
        weighters=("uniform", "token_mean", "gradnorm", "lbtw", "famo", "coba"),
        measure=finetuned,
        departures=(
            "A model of 135 million parameters learns by LoRA in its last six layers to complete code of five languages, "
            "with 256 to 16 examples; the paper fine-tunes larger models on its own data.",
            "Nothing is tuned, and static weights, the validation-fed forms of GradNorm and LBTW, and MetaWeighting are "
            "left out: the whole would take more than five hours.",
            "Ways to draw tasks: equally often (as under all methods), in proportion to their examples, and to the square "
            "root of these.",
            _ONE_EXAMPLE,
            _MEASURE,
            _SECONDS,
        ),
    ),
)
