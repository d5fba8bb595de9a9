"""What a method did in a run, watched from outside: flags for the record, so that nothing degenerates silently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.contract import Training
from benchmarks.harness.step import StepResult
from benchmarks.records.schema import Flag
from weighting import Weighter

LIKE_UNIFORM = 0.01
"""Weights that are always this near to their mean, and to their own first value, count as equal."""
DRIFT = 2.0
"""The sum of weights acts as a factor on the learning rate; a change by more than this factor is told."""


SWING = 0.2
"""The least standard deviation of an oscillating weight over the steps, by its mean."""
CROSSINGS = 8
"""How many times an oscillating weight covers the whole of its range, back and forth."""


class WeightDiagnostics:
    """Running sums and extremes of a run's weights, as the method gave them; fed once per block of steps."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.seen: dict[str, Any] = {
            "steps": 0,
            "first": None,
            "moved": False,
            "largest_deviation_from_mean": 0.0,
            "largest_deviation_from_first": 0.0,
            "swings": None,
            "sum_of_weights": None,
            "steps_present": None,
            "first_sum": None,
            "least_sum": None,
            "largest_sum": None,
            "negative_steps": 0,
            "first_negative": None,
            "clipped_steps": 0,
        }

    def observe(self, results: Sequence[StepResult], clip: float | None) -> None:
        """Take note of the next steps."""
        given = torch.stack([result.given for result in results]).double()
        given = given.reshape(len(results), -1, given.shape[-1])
        here = torch.stack([~result.absent for result in results]).reshape(given.shape)
        norms = [result.gradient_norm for result in results if result.gradient_norm is not None]
        if norms and clip is not None:
            self.seen["clipped_steps"] += int((torch.stack(norms) > clip).sum())
        self._moves(given, here)
        self._swings(given, here)
        self._means(torch.stack([result.weights for result in results]).double().reshape(given.shape), here)
        self._sums(given.sum(-1)[here.all(-1).all(-1)])
        negative = ((given < 0) & here).any(-1).any(-1)
        if bool(negative.any()) and self.seen["first_negative"] is None:
            self.seen["first_negative"] = self.seen["steps"] + int(negative.int().argmax())
        self.seen["negative_steps"] += int(negative.sum())
        self.seen["steps"] += len(given)

    def mean_weights(self) -> dict[str, float]:
        """Task -> mean of its weight, as it was used, over the steps in which it was present, and over replicas."""
        if self.seen["steps_present"] is None:
            return {}
        sums, counts = self.seen["sum_of_weights"].tolist(), self.seen["steps_present"].tolist()
        return {task: total / count for task, total, count in zip(self.tasks, sums, counts, strict=True) if count}

    def _moves(self, given: Tensor, here: Tensor) -> None:
        """Against the first weight of the task, and against the mean weight of the tasks that are there."""
        first = torch.full_like(given[0], math.nan) if self.seen["first"] is None else self.seen["first"].to(given)
        # A task that was absent in the first step is compared from its first weight on.
        earliest = given.gather(0, here.int().argmax(0, keepdim=True)).squeeze(0)
        first = torch.where(first.isnan() & here.any(0), earliest, first)
        self.seen["first"] = first.cpu()
        self.seen["moved"] = self.seen["moved"] or bool(((given != first) & here).any())
        mean = (given * here).sum(-1, keepdim=True) / here.sum(-1, keepdim=True).clamp(min=1)
        for name, reference in (("largest_deviation_from_mean", mean), ("largest_deviation_from_first", first)):
            distance = (given / reference - 1).abs().nan_to_num(nan=0.0, posinf=math.inf)
            self.seen[name] = max(self.seen[name], float(torch.where(here, distance, 0.0).max()))

    def _swings(self, given: Tensor, here: Tensor) -> None:
        """For each replica and task, over the steps in which it is there: moments, extremes, and the way made."""
        known = self.seen["swings"]
        if known is None:
            nothing = torch.zeros_like(given[0])
            known = {"count": nothing, "sum": nothing, "squares": nothing, "way": nothing}
            known |= {"low": nothing + math.inf, "high": nothing - math.inf, "last": nothing + math.nan}
        known = {name: value.to(given) for name, value in known.items()}
        # The last weight of the task before each step: absent steps are passed over.
        number = torch.arange(1, len(given) + 1, device=given.device).reshape(-1, 1, 1)
        latest = torch.where(here, number, 0).cummax(0).values
        held = torch.cat([known["last"].unsqueeze(0), given]).gather(0, torch.cat([torch.zeros_like(latest[:1]), latest]))
        steps = torch.where(here, held[1:] - held[:-1], 0.0).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        present = torch.where(here & given.isfinite(), given, 0.0)
        found = {
            "count": known["count"] + (here & given.isfinite()).sum(0),
            "sum": known["sum"] + present.sum(0),
            "squares": known["squares"] + present.square().sum(0),
            "way": known["way"] + steps.abs().sum(0),
            "low": torch.minimum(known["low"], torch.where(here, given, math.inf).amin(0)),
            "high": torch.maximum(known["high"], torch.where(here, given, -math.inf).amax(0)),
            "last": held[-1],
        }
        self.seen["swings"] = {name: value.cpu() for name, value in found.items()}

    def _means(self, used: Tensor, here: Tensor) -> None:
        here = here & used.isfinite()
        sums = torch.where(here, used, 0.0).sum((0, 1)).cpu()
        counts = here.sum((0, 1)).cpu()
        if self.seen["sum_of_weights"] is not None:
            sums, counts = sums + self.seen["sum_of_weights"], counts + self.seen["steps_present"]
        self.seen["sum_of_weights"], self.seen["steps_present"] = sums, counts

    def _sums(self, sums: Tensor) -> None:
        if len(sums) == 0:
            return
        if self.seen["first_sum"] is None:
            self.seen["first_sum"], self.seen["least_sum"], self.seen["largest_sum"] = sums[0], sums[0], sums[0]
        self.seen["least_sum"] = torch.minimum(self.seen["least_sum"], sums.amin(0))
        self.seen["largest_sum"] = torch.maximum(self.seen["largest_sum"], sums.amax(0))

    def flags(self, weighter: Weighter, training: Training, not_finite: str | None) -> tuple[Flag, ...]:
        """What a reader of the run's numbers has to know. ``not_finite``: why the run diverged, if it did."""
        found = [
            *self._degenerate(weighter),
            *self._oscillation(weighter),
            *self._scale(),
            *self._guards(weighter),
            *self._harness(training),
        ]
        if not_finite is not None:
            found.append(Flag(name="not_finite", text=not_finite))
        return tuple(found)

    def _degenerate(self, weighter: Weighter) -> list[Flag]:
        steps = self.seen["steps"]
        if not weighter.adaptive or weighter.num_tasks == 1 or steps < 2:
            return []
        if not self.seen["moved"]:
            return [Flag(name="never_moved", text=f"the weights were the same at all {steps} steps", steps=steps)]
        deviations = [self.seen[f"largest_deviation_from_{what}"] for what in ("mean", "first")]
        if max(deviations) < LIKE_UNIFORM:
            text = f"every weight was within {deviations[0]:.2%} of the mean weight at all {steps} steps"
            return [Flag(name="like_uniform", text=text, steps=steps)]
        return []

    def _oscillation(self, weighter: Weighter) -> list[Flag]:
        known = self.seen["swings"]
        if known is None or not weighter.adaptive or weighter.num_tasks == 1:
            return []
        mean = known["sum"] / known["count"].clamp(min=1)
        deviation = (known["squares"] / known["count"].clamp(min=1) - mean.square()).clamp(min=0).sqrt() / mean.abs()
        crossings = known["way"] / (known["high"] - known["low"])
        worst = torch.where(crossings >= CROSSINGS, deviation, 0.0).nan_to_num(nan=0.0, posinf=0.0)
        place = int(worst.argmax())
        swing = float(worst.flatten()[place])
        if swing < SWING:
            return []
        task = self.tasks[place % len(self.tasks)]
        times = float(crossings.flatten()[place])
        text = f"the weight of {task} went {times:.0f} times over its range, standard deviation {swing:.0%} of its mean"
        return [Flag(name="oscillates", text=text)]

    def _scale(self) -> list[Flag]:
        found = []
        if self.seen["first_sum"] is not None:
            least, largest = self.seen["least_sum"], self.seen["largest_sum"]
            worst = int((largest / least.clamp(min=torch.finfo(least.dtype).tiny)).argmax())
            low, high, first = (float(self.seen[name][worst]) for name in ("least_sum", "largest_sum", "first_sum"))
            if low <= 0 or high > DRIFT * low:
                text = f"sum of weights between {low:.3g} and {high:.3g} (first {first:.3g}): a factor on the learning rate"
                found.append(Flag(name="sum_drifted", text=text))
        if self.seen["negative_steps"]:
            number, first_step = self.seen["negative_steps"], self.seen["first_negative"]
            text = f"a weight below zero in {number} steps, first in step {first_step}"
            found.append(Flag(name="negative_weights", text=text, steps=number))
        return found

    def _guards(self, weighter: Weighter) -> list[Flag]:
        return [
            Flag(name=f"guard:{name}", text=f"{weighter.guards[name]} ({count} times)", steps=count)
            for name, count in weighter.guards_taken().items()
        ]

    def _harness(self, training: Training) -> list[Flag]:
        found = []
        if self.seen["clipped_steps"]:
            number = self.seen["clipped_steps"]
            text = f"the gradient was clipped to norm {training.grad_clip} in {number} of {self.seen['steps']} steps"
            found.append(Flag(name="clipped", text=text, steps=number))
        if training.normalize != "none":
            text = f"all weights were rescaled ({training.normalize.replace('_', ' ')})"
            found.append(Flag(name="renormalised", text=text))
        return found
