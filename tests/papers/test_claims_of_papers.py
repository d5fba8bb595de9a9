"""Claims of papers as checks: each can hold and fail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from paper_runs import (
    NEAR,
    OFF,
    ON,
    RIVALS,
    SEEDS,
    checks_of,
    finetuned,
    landscape,
    language_model,
    languages,
    measured,
    of_claims,
    regressions,
    verdicts,
)


@pytest.mark.parametrize(
    ("uniform", "famo", "expected"),
    [
        ((ON, ON, OFF, ON, ON), (ON, ON, NEAR, ON, ON), ["holds", "holds"]),
        ((ON, ON, ON, ON, ON), (ON, ON, ON, ON, ON), ["does not hold", "holds"]),
        ((OFF, ON, OFF, ON, ON), (ON, ON, ON, 0.0101, ON), ["does not hold", "does not hold"]),
        ((ON, ON, float("nan"), ON, ON), (OFF, OFF, OFF, OFF, OFF), ["holds", "does not hold"]),
    ],
)
def test_famo_is_judged_by_the_starts_that_are_missed(
    uniform: Sequence[float], famo: Sequence[float], expected: list[str]
) -> None:
    runs = [landscape("uniform", uniform), landscape("famo", famo)]
    assert verdicts("famo", runs) == expected
    first, second = checks_of("famo", runs)
    assert f"missed {sum(not gap <= 0.01 for gap in uniform)} of 5" in first.numbers
    assert f"missed {sum(not gap <= 0.01 for gap in famo)} of 5" in second.numbers
    assert "above 0.01" in first.criterion


def test_the_missed_start_is_named_with_its_gap() -> None:
    first, _ = checks_of("famo", [landscape("uniform", (ON, ON, OFF, ON, ON)), landscape("famo", (ON,) * 5)])
    assert "(9, 9) with a gap of 0.96" in first.numbers


def test_famo_cannot_be_judged_without_a_finished_run() -> None:
    assert verdicts("famo", [landscape("uniform", (ON, ON, OFF, ON, ON))]) == ["holds", "cannot be judged"]


# ---- GradNorm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"uniform": 4.6, "uncertainty": 3.9, "gradnorm": 3.6}, ["holds", "holds"]),
        ({"uniform": 4.6, "uncertainty": 3.3, "gradnorm": 3.6}, ["holds", "does not hold"]),
        ({"uniform": 3.2, "uncertainty": 3.3, "gradnorm": 3.6}, ["does not hold", "does not hold"]),
    ],
)
def test_gradnorm_is_judged_against_both_rivals(levels: dict[str, float], expected: list[str]) -> None:
    assert verdicts("gradnorm", regressions(levels))[:2] == expected


def test_few_seeds_or_much_noise_cannot_be_judged() -> None:
    levels = {"uniform": 4.6, "uncertainty": 3.9, "gradnorm": 3.6}
    few = checks_of("gradnorm", regressions(levels, SEEDS[:3]))[:2]
    assert [check.verdict for check in few] == ["cannot be judged"] * 2
    assert all("3 of 3 better; too few to test: 3 pairs cannot reach p < 0.25" in check.numbers for check in few)
    equal = {"uniform": 3.6, "uncertainty": 3.6, "gradnorm": 3.6}
    assert verdicts("gradnorm", regressions(equal, noise=0.5))[:2] == ["cannot be judged"] * 2


def test_p_is_corrected_for_the_number_of_rivals() -> None:
    # Six pairs of one sign have p = 0.031, twice that after Holm; seven are the fewest for two comparisons.
    levels = {"uniform": 4.6, "uncertainty": 3.9, "gradnorm": 3.6}
    six, seven = (checks_of("gradnorm", regressions(levels, range(number)))[:2] for number in (6, 7))
    assert [check.verdict for check in six] == ["cannot be judged"] * 2
    assert all(float(check.numbers.partition(" against ")[0]) == pytest.approx(3.6, abs=0.02) for check in six)
    assert all(
        "6 of 6 better; too few to test: 6 pairs cannot reach p < 0.062 over 2 comparisons" in check.numbers for check in six
    )
    assert [check.verdict for check in seven] == ["holds"] * 2


def test_a_rival_without_runs_leaves_the_other_claim_alone() -> None:
    first, second, *_ = checks_of("gradnorm", regressions({"uniform": 4.6, "gradnorm": 3.6}))
    assert (first.verdict, second.verdict) == ("holds", "cannot be judged")
    assert second.numbers == "no seed with finished runs of both"


def test_both_of_gradnorms_rules_are_judged() -> None:
    levels = {"uniform": 4.6, "uncertainty": 3.3, "gradnorm": 3.6, "gradnorm[floor=0]": 5.7}
    checks = checks_of("gradnorm", regressions(levels))
    assert [check.verdict for check in checks] == ["holds", "does not hold", "does not hold", "does not hold"]
    assert ["at or above 0.001" in check.claim for check in checks] == [True, True, False, False]


# ---- CoBa -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coba", "others", "even", "cheap"),
    [
        ((40, 0.0011), (200, 0.002), "holds", "holds"),
        ((240, 0.003), (40, 0.002), "does not hold", "does not hold"),
        ((40, 0.003), (200, 0.002), "holds", "does not hold"),
    ],
)
def test_coba_is_judged_by_spread_price_and_cost(
    coba: tuple[int, float], others: tuple[int, float], even: str, cheap: str
) -> None:
    found = checks_of("coba", languages(coba, others))
    assert of_claims("converge more evenly", found) == [even] * 6
    assert of_claims("One checkpoint", found) == [even] * 6
    assert of_claims("A step of CoBa", found) == [cheap] * 5


def test_the_numbers_of_coba_are_those_of_the_report() -> None:
    (scratch,) = measured("coba", languages((40, 0.0011), (200, 0.002)))
    ours = {(each.method, each.metric): each for each in scratch.ours}
    assert ours["coba", "convergence_spread"].mean == pytest.approx(0.1)
    assert ours["famo", "convergence_spread"].mean == pytest.approx((200 + 10) / 400)
    assert ours["famo", "relative_seconds"].mean == pytest.approx(2.0)
    assert ours["coba", "price_of_one_checkpoint"].mean == pytest.approx(0.02, rel=0.01)
    assert ours["coba", "mean_bits_per_byte"].mean == pytest.approx(1.0035)
    there = {each.method for each in scratch.ours if each.n}
    assert there == {"uniform", "coba", *RIVALS}
    assert {each.n for each in scratch.ours if each.method in there} == {8}


def test_coba_on_three_seeds_cannot_be_judged() -> None:
    assert set(verdicts("coba", languages((40, 0.0011), (200, 0.002), SEEDS[:3]))) == {"cannot be judged"}


@pytest.mark.parametrize(("bits", "expected"), [((0.9, 1.0), "holds"), ((1.05, 1.0), "does not hold")])
def test_coba_is_held_against_the_best_of_its_rivals(bits: tuple[float, float], expected: str) -> None:
    """In the second case it is better than equal weights, which are not the best rival."""
    found = [
        check for check in checks_of("coba", languages((40, 0.001), (40, 0.001), bits=bits)) if "fewer bits" in check.claim
    ]
    assert [check.verdict for check in found] == [expected, "cannot be judged", "cannot be judged"]
    assert "gradnorm, the best rival" in found[0].claim


def test_tuned_coba_is_held_against_tuned_rivals() -> None:
    runs = languages((40, 0.001), (40, 0.001), bits=(2.0, 1.0))
    for seed in SEEDS:
        runs += [language_model("coba", seed, 40, bits=0.8, role="tuned")]
        runs += [language_model("lbtw", seed, 40, bits=0.85, role="tuned")]
        runs += [language_model("famo", seed, 40, bits=0.9, role="tuned")]
    (found,) = [check for check in checks_of("coba", runs) if check.claim.startswith("Tuned CoBa")]
    assert (found.verdict, "tuned lbtw" in found.claim) == ("holds", True)


def test_a_warm_up_that_ends_too_late_is_said() -> None:
    soon, late = ([language_model("uniform", 0, 40), language_model("coba", 0, 40, warmup=warmup)] for warmup in (80, 100))
    assert "did not end before" not in measured("coba", soon)[0].notes[0]
    assert "The warm-up did not end before that." in measured("coba", late)[0].notes[0]
    assert "turns at step 100 to 100" in measured("coba", late)[0].notes[0]


@pytest.mark.parametrize(
    ("famo", "fed", "expected"), [(0.7, 0.4, ["holds", "holds"]), (0.3, 0.4, ["does not hold", "does not hold"])]
)
def test_where_the_weight_of_famo_goes(famo: float, fed: float, expected: list[str]) -> None:
    found = checks_of("coba", finetuned(famo, fed))
    assert of_claims("more than an equal share", found) + of_claims("Fed with validation losses", found) == expected
    # Its loss is lowest earlier than under equal weights, and so ends higher above.
    assert of_claims("ends further above its lowest", found) == ["holds"]


def test_ways_to_draw_tasks_are_among_the_rivals() -> None:
    runs = finetuned(0.7, 0.4)
    (only,) = measured("coba", runs)
    drawn = [each for each in only.ours if each.method == "uniform[sampling=proportional]"]
    # Seconds are relative to the uniform run beside, which is this one itself.
    assert {(each.n, each.metric == "relative_seconds") for each in drawn} == {(8, False), (0, True)}
    claims = [check.claim for check in only.checks if "best rival" in check.claim]
    assert all("uniform[sampling=proportional], the best rival" in claim for claim in claims)
