"""Claims of papers as checks: each can hold and fail. Published, re-run and own numbers side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import fake_runs
import numpy as np
import pandas as pd
import pytest

from benchmarks.analysis.scores import scores
from benchmarks.analysis.sections import Section, sections
from benchmarks.cli import main as command_line
from benchmarks.contract import Training
from benchmarks.papers.claims import Check, Ours
from benchmarks.papers.comparison import PublishedRow, compare
from benchmarks.papers.experiments import EXPERIMENTS, experiment, names
from benchmarks.papers.published import papers, published
from benchmarks.papers.reproduction import write_reproduction
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.problems.famo_toy import STARTS
from benchmarks.records.schema import MetricInfo, Run
from benchmarks.report.formatting import MISSING

SEEDS = tuple(range(8))


def section_of(runs: Sequence[Run]) -> Section:
    found, _ = sections(runs)
    assert len(found) == 1
    return found[0]


def checks_of(paper: str, runs: Sequence[Run]) -> list[Check]:
    return list(EXPERIMENTS[paper].measure(scores(section_of(runs))).checks)


def verdicts(paper: str, runs: Sequence[Run]) -> list[str]:
    return [check.verdict for check in checks_of(paper, runs)]


# ---- FAMO ------------------------------------------------------------------------------------------------------------


def landscape(method: str, gaps: Sequence[float]) -> Run:
    keys = [f"front_gap[start {number}]" for number in range(1, len(STARTS) + 1)]
    infos = [MetricInfo(key=key, name=key, task=None, higher_is_better=False, primary=False) for key in keys]
    return fake_runs.make(
        method,
        problem="famo_toy",
        tasks=("f1", "f2"),
        infos=infos,
        metrics=dict(zip(keys, gaps, strict=True)),
        options={"tolerance": 0.01},
    )


ON, NEAR, OFF = 0.0, 0.0099, 0.96


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


# ---- GradNorm --------------------------------------------------------------------------------------------------------

SUMMED = MetricInfo(key="summed_relative_loss", name="summed", task=None, higher_is_better=False, primary=False)


def regressions(levels: dict[str, float], seeds: Sequence[int] = SEEDS, noise: float = 0.01) -> list[Run]:
    draw = np.random.default_rng(0)
    return [
        fake_runs.make(
            method, seed, problem="gradnorm_toy", infos=[SUMMED], metrics={SUMMED.key: level + float(draw.normal(0, noise))}
        )
        for seed in seeds
        for method, level in levels.items()
    ]


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


# ---- CoBa ------------------------------------------------------------------------------------------------------------

LANGUAGE_MODEL = Training(steps=400, log_every=20, evaluate_every=20)


def language_model(method: str, seed: int, apart: int, seconds: float) -> Run:
    """Two tasks whose validation losses are lowest ``apart`` steps from each other."""
    steps = np.arange(0, 401, 20)
    frames = []
    for task, best in (("python", 100), ("yaml", 100 + apart)):
        loss = 1 + np.abs(steps - best) * (1e-3 + 1e-6 * seed)
        frame = pd.DataFrame(
            {"step": steps, "replica": 0, "task": task, "train_loss": loss, "val_loss": loss, "weight": 1.0}
        )
        frame.loc[frame["step"] == 400, ["train_loss", "weight"]] = np.nan
        frames.append(frame)
    return fake_runs.make(
        method,
        seed,
        problem="code_lm",
        tasks=("python", "yaml"),
        trajectory=pd.concat(frames, ignore_index=True),
        training=LANGUAGE_MODEL,
        seconds=seconds * (1 + 0.001 * seed),
    )


def languages(coba: tuple[int, float], others: tuple[int, float], seeds: Sequence[int] = SEEDS) -> list[Run]:
    """Steps apart and seconds per step of CoBa and of its rivals; equal weights take 1 ms."""
    jitter = {seed: 20 * (seed % 2) for seed in seeds}
    runs = [language_model("coba", seed, coba[0], coba[1]) for seed in seeds]
    for method in ("gradnorm", "lbtw", "famo"):
        runs += [language_model(method, seed, others[0] + jitter[seed], others[1]) for seed in seeds]
    return runs + [language_model("uniform", seed, others[0] + jitter[seed], 0.001) for seed in seeds]


@pytest.mark.parametrize(
    ("coba", "others", "expected"),
    [
        ((40, 0.0011), (200, 0.002), ["holds"] * 11),
        ((240, 0.003), (40, 0.002), ["does not hold"] * 11),
        ((40, 0.003), (200, 0.002), ["holds"] * 8 + ["does not hold"] * 3),
    ],
)
def test_coba_is_judged_by_spread_price_and_cost(
    coba: tuple[int, float], others: tuple[int, float], expected: list[str]
) -> None:
    assert verdicts("coba", languages(coba, others)) == expected


def test_the_numbers_of_coba_are_those_of_the_report() -> None:
    measured = EXPERIMENTS["coba"].measure(scores(section_of(languages((40, 0.0011), (200, 0.002)))))
    ours = {(each.method, each.metric): each for each in measured.ours}
    assert ours["coba", "convergence_spread"].mean == pytest.approx(0.1)
    assert ours["famo", "convergence_spread"].mean == pytest.approx((200 + 10) / 400)
    assert ours["famo", "relative_seconds"].mean == pytest.approx(2.0)
    assert ours["coba", "price_of_one_checkpoint"].mean == pytest.approx(0.02, rel=0.01)
    assert {each.n for each in measured.ours} == {8}


def test_coba_on_three_seeds_cannot_be_judged() -> None:
    assert set(verdicts("coba", languages((40, 0.0011), (200, 0.002), SEEDS[:3]))) == {"cannot be judged"}


# ---- side by side ----------------------------------------------------------------------------------------------------


def rows_of(paper: str, protocol: str, ours: Sequence[Ours] = ()) -> dict[tuple[str, str], PublishedRow]:
    own = protocol if ours else None
    found = next(each for each in compare(papers()[paper], ours, own) if each.shown.protocol == protocol)
    return {(row.method, row.metric): row for row in found.rows}


def test_others_runs_stand_beside_the_published_numbers() -> None:
    rows = rows_of("famo", "famo_nyuv2")
    uniform = rows["LS", "Δm"]
    assert (uniform.published, uniform.rerun, uniform.ours, uniform.difference) == ("5.59", "2.35", MISSING, "-3.24")
    assert uniform.verdict == "cannot be judged: an error is missing"
    # Computed from LibMTL's row and the published single-task row; nobody published a number of GradNorm here.
    gradnorm = rows["GradNorm", "Δm"]
    assert (gradnorm.rerun, gradnorm.verdict) == ("-4.03", "nothing published")
    assert rows["FAMO", "Δm"].published == "-4.10 ± 0.39"
    assert rows["IMTL-G", "Δm"].verdict == "not run here"
    # LibMTL's row of PCGrad is not whole, and the Δm that goes with it is not verified.
    assert rows["PCGrad", "Δm"].rerun == MISSING


def test_numbers_keep_the_digits_they_were_printed_with() -> None:
    row = rows_of("uncertainty", "uncertainty_cityscapes_v1")["UW", "segmentation: IoU"]
    assert (row.published, row.rerun, row.difference) == ("46.6", "42.87", "-3.73")


def test_a_re_run_within_its_error_agrees() -> None:
    row = rows_of("famo", "metaworld_mt10")["Nash-MTL, every step", "success rate"]
    assert (row.published, row.rerun, row.verdict) == ("0.91 ± 0.03", "0.80 ± 0.13", "agrees within 2 s.e.")


def test_the_misprint_is_replaced_and_said() -> None:
    found = next(each for each in compare(papers()["famo"], (), None) if each.shown.protocol == "famo_cityscapes")
    shown = [row.published for row in found.rows if (row.method, row.metric) == ("LS", "Δm")]
    assert shown == ["22.60"]
    assert "misprinted" in found.shown.note()


@pytest.mark.parametrize(("missed", "verdict"), [(1.0, "agrees"), (2.0, "differs")])
def test_our_counts_are_held_against_the_published_ones(missed: float, verdict: str) -> None:
    nan = float("nan")
    ours = [Ours("uniform", "starts_missed", missed, nan, 1), Ours("famo", "starts_missed", nan, nan, 0)]
    rows = rows_of("famo", "famo_toy", ours)
    uniform, famo = rows.values()
    assert (uniform.published, uniform.ours, uniform.verdict) == ("1", f"{missed:.0f} (n = 1)", verdict)
    assert uniform.difference == f"{missed - 1:+.0f}"
    assert (famo.ours, famo.verdict) == (f"{MISSING} (n = 0)", "no finished run")


def test_our_numbers_without_published_ones_are_not_judged() -> None:
    ours = [Ours("gradnorm", "summed_relative_loss", 3.6412, 0.0512, 7)]
    (row,) = rows_of("gradnorm", "gradnorm_toy", ours).values()
    assert (row.published, row.ours, row.verdict) == (MISSING, "3.641 ± 0.051 (n = 7)", "nothing published")


@pytest.mark.parametrize("paper", [paper for paper in names() if experiment(paper) is None])
def test_a_paper_of_which_nothing_can_be_run_is_shown(paper: str, tmp_path: Path) -> None:
    said = write_reproduction(paper, tmp_path, set())
    text = (tmp_path / "reproduce.md").read_text(encoding="utf-8")
    assert "Nothing of this paper can be run here" in text
    for protocol in papers()[paper]:
        assert published(protocol).title in said or published(protocol).reruns is not None
    assert max(len(line) for line in said.splitlines()) <= 140


@pytest.mark.parametrize(
    ("paper", "runs"),
    [
        ("famo", lambda: [landscape("uniform", (ON, ON, OFF, ON, ON)), landscape("famo", (ON,) * 5)]),
        ("gradnorm", lambda: regressions({"uniform": 4.6, "uncertainty": 3.3, "gradnorm": 3.6})),
        ("coba", lambda: languages((40, 0.003), (200, 0.002))),
    ],
)
def test_the_report_has_claims_tables_and_what_is_held_back(
    paper: str, runs: Callable[[], list[Run]], tmp_path: Path
) -> None:
    made = runs()
    folder = fake_runs.write_suite(tmp_path / f"reproduce_{paper}", made)
    keys = {run.record.key for run in made}
    said = write_reproduction(paper, folder, keys)
    text = (folder / "reproduce.md").read_text(encoding="utf-8")
    for check in checks_of(paper, made):
        assert f"{check.verdict.upper()}: {check.claim}" in said
        assert check.claim in text
        assert check.numbers.partition(" (")[0] in text
    assert "| published | re-run by others | ours (mean ± s.e., n) | difference | verdict |" in text
    for protocol in papers()[paper]:
        if published(protocol).withheld:
            assert published(protocol).withheld[0].reason.rstrip(".") in text
    assert max(len(line) for line in said.splitlines()) <= 140
    assert write_reproduction(paper, folder, keys) == said
    assert (folder / "reproduce.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("paper", EXPERIMENTS)
def test_the_suite_of_a_paper_has_what_its_claims_need(paper: str) -> None:
    found = EXPERIMENTS[paper]
    plan = make_plan(read_suite(found.suite), Filters(weighters=found.weighters), "cpu")
    assert found.suite == f"reproduce_{paper}"
    assert {run.weighter.name for run in plan.runs} == set(found.weighters)
    assert {run.role for run in plan.runs} == {"method"}
    assert found.protocol in papers()[paper]


# ---- the command -----------------------------------------------------------------------------------------------------


def test_an_unknown_paper_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["reproduce", "fomo"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: unknown paper 'fomo'; did you mean 'famo'? known: famo, gradnorm, coba, ")
    assert err.count("\n") == 1
    assert command_line.main(["reproduce"]) == 2
    assert capfd.readouterr().err == "error: expected paper, found none (see run_bench.py reproduce --help)\n"


def test_a_paper_without_runs_is_shown_without_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["reproduce", "dwa", "--out", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "17.15" in out
    assert [path.name for path in (tmp_path / "reproduce_dwa").iterdir()] == ["reproduce.md"]


@pytest.mark.slow
def test_a_small_run_is_trained_once_and_a_claim_that_fails_is_a_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "famo", "--steps", "300", "--out", str(tmp_path), "--executor", "here"]
    assert command_line.main(command) == 0
    first = capfd.readouterr().out
    assert "2 runs: 0 recorded, 2 to train" in first
    # After 300 steps nobody is at the front.
    assert "DOES NOT HOLD: FAMO reaches the Pareto front from all five starts." in first
    assert "300 steps" in first
    report = (tmp_path / "reproduce_famo" / "reproduce.md").read_bytes()
    assert command_line.main(command) == 0
    assert "2 runs: 2 recorded, 0 to train" in capfd.readouterr().out
    assert (tmp_path / "reproduce_famo" / "reproduce.md").read_bytes() == report


def test_a_dry_run_prints_the_plan_and_touches_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["reproduce", "gradnorm", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert "28 runs: 0 recorded, 28 to train" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []
