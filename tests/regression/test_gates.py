"""The rules of the gates on numbers: when quality fails, what a seed spread is, which weights are equal, what cost is."""

from __future__ import annotations

import math

import fake_runs
import numpy as np
import pytest
import regression_runs
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.records.schema import Run
from benchmarks.regression import false_alarms, golden_weights, picture, quality, step_cost
from benchmarks.regression.golden_logs import make_logs, observations
from benchmarks.regression.history import Entry, GateNumber


def arrays(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


# ---- quality ---------------------------------------------------------------------------------------------------------


def test_all_three_conditions_are_needed() -> None:
    assert quality.rule(arrays(5, 6, 7), spread=0.1).worse
    assert not quality.rule(arrays(1, 1.5, 1.8), spread=0.1).worse, "below the factor"
    assert not quality.rule(arrays(5, 6, 7), spread=3.0).worse, "within the noise"
    assert not quality.rule(arrays(9, 9, -0.1), spread=0.1).worse, "the seeds disagree"
    assert not quality.rule(arrays(-5, -6, -7), spread=0.1).worse, "better"


def test_with_six_pairs_the_test_decides() -> None:
    assert quality.rule(arrays(5, 6, 7, 5, 6, 7), spread=0.1).worse
    # p = 4 / 64 where the one that disagrees is the smallest.
    assert not quality.rule(arrays(5, 6, 7, 5, 6, -1), spread=0.1).worse
    assert quality.rule(arrays(5, 6, 7, 5, 6, 7, 5, -1), spread=0.1).worse


def test_what_is_allowed_is_four_standard_errors_of_a_difference() -> None:
    found = quality.rule(arrays(5, 6, 7), spread=3.0)
    assert found.allowed == pytest.approx(4 * 3.0 * math.sqrt(2 / 3))
    assert quality.rule(arrays(5, 6, 7), spread=0.0).allowed == quality.FACTOR


def test_spread_is_pooled_or_the_methods_own_if_larger() -> None:
    """One metric, better when higher: deviations from the mean of -1, 0, +1 % and of -3, 0, +3 %."""
    calm = (np.array([[0.99], [1.0], [1.01]]), [True])
    wild = (np.array([[1.94], [2.0], [2.06]]), [True])
    assert quality.pooled({"calm": calm, "wild": wild}, "calm") == pytest.approx(math.sqrt((1 + 9) / 2))
    assert quality.pooled({"calm": calm, "wild": wild}, "wild") == pytest.approx(3)
    assert quality.pooled({}, "calm") == 0


def test_half_of_unharmed_methods_would_fail_on_the_mean_alone() -> None:
    """The rule on numbers without any difference, drawn as unpaired groups of three: few alarms, though not none."""
    draw = np.random.default_rng(0)
    changes = draw.normal(0, 3 * math.sqrt(2), (400, 3))
    alarms = sum(quality.rule(each, spread=3.0).worse for each in changes)
    assert 0.3 < (changes.mean(axis=1) > 0).mean() < 0.7
    assert alarms / len(changes) < 0.02


# ---- replayed weights -----------------------------------------------------------------------------------------------


def test_equal_weights_are_equal_and_a_difference_is_placed() -> None:
    before = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    assert golden_weights.largest_difference(before, before, 1e-6) == (0, -1)
    after = [[1.0, 2.0], [1.0 + 4e-6, 2.0], [1.0, 2.2]]
    assert golden_weights.largest_difference(before, after, 1e-6) == pytest.approx((0.1, 1))
    assert golden_weights.largest_difference(before, after, 1e-3) == pytest.approx((0.1, 2))


@pytest.mark.parametrize("after", [[[1.0, 2.0]], [[1.0, 2.0, 3.0]] * 2, [[1.0, 2.0], [math.nan, 2.0]]])
def test_other_shapes_and_no_numbers_differ(after: list[list[float]]) -> None:
    largest, step = golden_weights.largest_difference([[1.0, 2.0], [1.0, 2.0]], after, 1e-6)
    assert (largest, step >= 0) == (math.inf, True)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5), st.floats(1e-8, 0.5))
def test_the_tolerance_is_relative_to_the_largest_weight(weights: list[float], share: float) -> None:
    moved = [weights[0] + share * max(weights), *weights[1:]]
    assert golden_weights.largest_difference([weights], [moved], 1.0)[0] == pytest.approx(share, rel=1e-6)


def test_every_choice_of_a_method_is_a_setting() -> None:
    labels = set(golden_weights.settings(["coba", "gradnorm", "famo"]))
    assert {"coba", "famo[lookahead=next_batch]", "gradnorm[optimizer=sgd]"} <= labels
    assert {"coba[losses_from=training]", "gradnorm[losses_from=validation]"} <= labels
    assert "famo[lookahead=same_batch]" not in labels


def test_logs_are_the_same_every_time_and_show_all_there_is_to_see() -> None:
    logs = make_logs()
    assert logs == make_logs()
    for log in logs.values():
        first = observations(log)[0]
        assert first.losses is not None
        assert first.gramian is not None
        assert first.grad_norms is not None
        assert first.gramian.diagonal().sqrt().tolist() == pytest.approx(first.grad_norms.tolist())
    assert observations(logs["absent_tasks"])[0].present is not None
    assert observations(logs["all_tasks"])[0].present is None


# ---- cost ------------------------------------------------------------------------------------------------------------


def methods(**seconds: list[float]) -> dict[str, dict[int, Run]]:
    path = fake_runs
    return {
        name: {seed: path.make(name, seed, seconds=value) for seed, value in enumerate(values)}
        for name, values in seconds.items()
    }


def test_cost_is_the_median_of_ratios_to_uniform_of_the_same_seed() -> None:
    """A busy period that slows all runs of one seed moves nothing."""
    assert step_cost.relative(methods(uniform=[1, 1, 1], famo=[2, 2, 2]), "famo") == 2
    assert step_cost.relative(methods(uniform=[1, 5, 1], famo=[2, 10, 2]), "famo") == 2
    assert math.isnan(step_cost.relative(methods(famo=[2, 2, 2]), "famo"))


def test_more_passes_fail_however_fast() -> None:
    base, head = methods(uniform=[1, 1], famo=[1, 1]), methods(uniform=[1, 1], famo=[1, 1])
    assert step_cost.judge("pictures", "famo", (base, "famo"), (head, "famo")).state == "ok"
    for seed, run in head["famo"].items():
        costs = run.record.costs
        assert costs is not None
        more = costs.model_copy(update={"extra_forwards": costs.extra_forwards + 1})
        head["famo"][seed] = Run(run.record.model_copy(update={"costs": more}), run.trajectory)
    verdict = step_cost.judge("pictures", "famo", (base, "famo"), (head, "famo"))
    assert verdict.state == "failed"
    assert verdict.reason.endswith("extra passes per step 1.00, now 2.00")


def test_disturbed_runs_are_left_out_and_where_none_is_left_nothing_is_judged() -> None:
    base, head = methods(uniform=[1, 1], famo=[1, 1]), methods(uniform=[1, 1], famo=[1, 9])
    assert step_cost.judge("pictures", "famo", (base, "famo"), (head, "famo")).state == "failed"
    head["famo"][1] = fake_runs.disturbed(head["famo"][1])
    assert step_cost.judge("pictures", "famo", (base, "famo"), (head, "famo")).state == "ok"
    head["uniform"][0] = fake_runs.disturbed(head["uniform"][0])
    verdict = step_cost.judge("pictures", "famo", (base, "famo"), (head, "famo"))
    assert verdict.state == "not judged"
    assert verdict.reason == "no undisturbed runs of the method and of uniform that were trained together in this run"


# ---- calibration and picture -----------------------------------------------------------------------------------------


def test_calibration_counts_alarms_over_all_ordered_pairs_of_groups() -> None:
    """Six groups of three seeds; in the last one famo is much worse and twice as slow: five of the thirty checks."""
    runs: dict[str, dict[int, Run]] = {"uniform": {}, "famo": {}}
    infos = regression_runs.INFOS
    for seed in range(18):
        last = seed >= 15
        for name in runs:
            factor = 1.5 if last and name == "famo" else 1.0
            metrics = {info.key: factor * (1 + 0.01 * (seed % 3 - 1)) for info in infos}
            seconds = 0.004 * (2.0 if last and name == "famo" else 1.0)
            runs[name][seed] = fake_runs.make(
                name, seed, tasks=("small", "medium", "large"), infos=infos, metrics=metrics, seconds=seconds
            )
    rows = false_alarms.compare_groups(runs, 3)
    assert len(rows) == 6 * 5 * 2
    assert {row.groups for row in rows if row.fails(quality.NOISES)} == {(first, 5) for first in range(5)}
    page = false_alarms.page([*rows, *false_alarms.compare_groups(runs, 6)], 5, runs["famo"][0])
    assert "| 3 | 5 of 30 (16.7 %) | 5 of 30 (16.7 %) | 5 of 30 (16.7 %) |" in page


def test_the_picture_is_the_same_every_time_and_marks_what_failed() -> None:
    entries = [
        Entry(
            suite="mine",
            commit=f"{number}123456789ab",
            date=f"2026-01-0{number}T00:00:00+00:00",
            against=("a",),
            passed=number != 2,
            gates={},
            numbers=tuple(
                GateNumber(gate=gate, place="pictures", method=method, state=state, value=value)
                for gate in (quality.GATE, step_cost.GATE)
                for method, state, value in (
                    ("uniform", "ok", 0.5),
                    ("famo", "failed" if number == 2 else "ok", None if number == 2 else 0.1),
                )
            ),
        )
        for number in (1, 2, 3)
    ]
    assert picture.draw(entries) == picture.draw(entries)
    made = picture.figure(entries)
    titles = [axis.get_title() for axis in made.axes]
    assert titles == ["Failed verdicts by gate", "pictures: quality", "pictures: cost"]
    crosses = [line for line in made.axes[1].lines if line.get_marker() == "x" and np.size(line.get_xdata())]
    assert [np.asarray(line.get_xdata()).tolist() for line in crosses] == [[1]]
    assert [text.get_text() for text in made.axes[0].get_xticklabels()] == ["3123456", "2123456", "1123456"]
    with pytest.raises(ValueError, match="at least one check"):
        picture.draw([])
