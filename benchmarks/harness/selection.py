"""Which model of a run is scored, by the rule that its training settings name.

``best_validation``   the evaluated step with the lowest ``selection_score`` on validation; test is scored once
``last``              the end of training; test is scored once
``mean_of_last_<k>``  metrics of the last k evaluations, meaned, as CAGrad, Nash-MTL and FAMO report them with k = 10
``oracle_on_test``    the evaluated step with the lowest score on test: chosen by test, so nobody could have known; for
                      comparison with papers that report it, and always labelled
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from benchmarks.analysis.selection_score import score
from benchmarks.contract import Evaluation, Training
from benchmarks.harness.checkpoint import trained_state
from benchmarks.records.schema import Selection

Parameters = dict[str, Tensor]
Metrics = dict[str, float]


@dataclass
class _Seen:
    """What the rule keeps of the evaluations so far."""

    step: int = -1
    score: float = float("inf")
    not_chosen: int = 0
    """Evaluations in a row that the rule did not choose."""
    parameters: Parameters = field(default_factory=dict)
    validation: list[Metrics] = field(default_factory=list)
    test: list[Metrics] = field(default_factory=list)
    initial_test_losses: Tensor | None = None


class Selector:
    """Looks at every evaluation of a run and gives the scores at its end.

    measure_test  evaluates the model, as it is, on the test split; called no more often than the rule needs
    """

    def __init__(self, training: Training, model: nn.Module, measure_test: Callable[[], Evaluation]) -> None:
        self.training, self.model, self.measure_test = training, model, measure_test
        self.rule = training.selection
        self.seen = _Seen()

    def look(self, step: int, validation: Evaluation, initial_val_losses: Tensor) -> None:
        """Take note of the evaluation at a step. The losses are ``(*batch_shape, K)``."""
        if self.rule == "best_validation":
            self._keep_if_lowest(step, _score(validation.losses, initial_val_losses), validation)
        elif self.rule == "oracle_on_test":
            self._ask_the_oracle(step, validation)
        elif self.training.averaged_evaluations is not None:
            self._average(step, validation, self.training.averaged_evaluations)
        else:
            # The model at the end is the one to score: there is nothing to copy.
            self.seen = _Seen(step=step, validation=[validation.metrics])

    @property
    def exhausted(self) -> bool:
        """Whether the rule has waited as long for a better step as ``patience`` says."""
        return self.training.patience is not None and self.seen.not_chosen >= self.training.patience

    def scores(self) -> tuple[Selection, Metrics, Metrics]:
        """The selected step with the validation and the test metrics there. Raises RuntimeError before any evaluation."""
        seen = self.seen
        if not seen.validation:
            raise RuntimeError("expected an evaluation before the score")
        if seen.parameters:
            self.model.load_state_dict(seen.parameters, strict=False)
        test = seen.test or [self.measure_test().metrics]
        return Selection(rule=self.rule, step=seen.step), _mean(seen.validation), _mean(test)

    def state_dict(self) -> dict[str, Any]:
        """What was kept so far, for a checkpoint."""
        return {name: getattr(self.seen, name) for name in asdict(_Seen())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.seen = _Seen(**state)

    def _keep_if_lowest(self, step: int, score: float, validation: Evaluation) -> bool:
        # The first evaluation counts even without a score, so that there always is a model to test.
        lowest = not self.seen.validation or score < self.seen.score
        self.seen.not_chosen = 0 if lowest else self.seen.not_chosen + 1
        if lowest:
            self.seen.step, self.seen.score, self.seen.validation = step, score, [validation.metrics]
            if self.rule == "best_validation":
                self.seen.parameters = {name: value.detach().clone() for name, value in trained_state(self.model).items()}
        return lowest

    def _ask_the_oracle(self, step: int, validation: Evaluation) -> None:
        test = self.measure_test()
        if self.seen.initial_test_losses is None:
            self.seen.initial_test_losses = test.losses
        if self._keep_if_lowest(step, _score(test.losses, self.seen.initial_test_losses), validation):
            self.seen.test = [test.metrics]

    def _average(self, step: int, validation: Evaluation, count: int) -> None:
        to_come = -(-(self.training.steps - step) // self.training.evaluate_every)
        if to_come < count:
            self.seen.step = step
            self.seen.validation.append(validation.metrics)
            self.seen.test.append(self.measure_test().metrics)


def _score(losses: Tensor, first: Tensor) -> float:
    return float(score(losses.double().cpu().numpy(), first.double().cpu().numpy()))


def _mean(found: list[Metrics]) -> Metrics:
    return {key: sum(metrics[key] for metrics in found) / len(found) for key in found[0]}
