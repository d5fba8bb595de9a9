"""Claims of papers as checks: each can hold and fail. Published, re-run and own numbers side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fake_runs
import numpy as np
import pandas as pd
import pytest

from benchmarks.analysis.scores import scores
from benchmarks.analysis.sections import sections
from benchmarks.cli import main as command_line
from benchmarks.contract import Training
from benchmarks.papers.claims import Check, Measured, Ours
from benchmarks.papers.comparison import PublishedRow, compare
from benchmarks.papers.experiments import EXPERIMENTS, experiments, names, suite_of
from benchmarks.papers.published import papers, published
from benchmarks.papers.reproduction import write_reproduction
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.problems.famo_toy import STARTS
from benchmarks.problems.finetune import models
from benchmarks.records.schema import MetricInfo, Role, Run
from benchmarks.report.formatting import MISSING, escape_markdown

SEEDS = tuple(range(8))


def measured(paper: str, runs: Sequence[Run]) -> list[Measured]:
    """Of the experiments whose problem has runs."""
    found = {section.name: scores(section) for section in sections(runs)[0]}
    return [
        each.measure({name: own for name, own in found.items() if own.section.problem.name == each.problem})
        for each in EXPERIMENTS[paper]
        if any(own.section.problem.name == each.problem for own in found.values())
    ]


def checks_of(paper: str, runs: Sequence[Run]) -> list[Check]:
    return [check for each in measured(paper, runs) for check in each.checks]


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
TASKS = ("python", "stubs")
BITS = [MetricInfo(key=f"{task}/bits", name="bits", task=task, higher_is_better=False, primary=True) for task in TASKS]
RIVALS = ("gradnorm", "lbtw", "famo", "famo[losses_from=validation]")


def language_model(
    method: str,
    seed: int,
    apart: int,
    seconds: float = 0.001,
    *,
    problem: str = "code_lm",
    bits: float = 1.0,
    stubs: float = 0.5,
    role: Role = "method",
    warmup: int = 80,
    options: dict[str, Any] | None = None,
) -> Run:
    """Two tasks whose validation losses are lowest ``apart`` steps from each other. stubs: the weight of the second."""
    steps = np.arange(0, 401, 20)
    frames = []
    for task, best, weight in (("python", 100, 1 - stubs), ("stubs", 100 + apart, stubs)):
        loss = 1 + np.abs(steps - best) * (1e-3 + 1e-6 * seed)
        frame = pd.DataFrame(
            {"step": steps, "replica": 0, "task": task, "train_loss": loss, "val_loss": loss, "weight": weight}
        )
        frame.loc[frame["step"] == 400, ["train_loss", "weight"]] = np.nan
        frames.append(frame)
    run = fake_runs.make(
        method,
        seed,
        problem=problem,
        tasks=TASKS,
        infos=BITS,
        metrics={info.key: bits * (1 + 0.001 * seed) for info in BITS},
        trajectory=pd.concat(frames, ignore_index=True),
        training=LANGUAGE_MODEL,
        seconds=seconds * (1 + 0.001 * seed),
        role=role,
        options=options,
    )
    spec = run.record.run.weighter.model_copy(update={"name": method.partition("[")[0]})
    changes = {"run": run.record.run.model_copy(update={"weighter": spec}), "resolved": {"warmup": warmup}}
    return Run(run.record.model_copy(update=changes), run.trajectory)


def languages(
    coba: tuple[int, float], others: tuple[int, float], seeds: Sequence[int] = SEEDS, bits: tuple[float, float] = (1.0, 1.0)
) -> list[Run]:
    """Steps apart, seconds per step and bits per byte of CoBa and of its rivals; equal weights take 1 ms."""
    jitter = {seed: 20 * (seed % 2) for seed in seeds}
    runs = [language_model("coba", seed, *coba, bits=bits[0]) for seed in seeds]
    for method in RIVALS:
        runs += [language_model(method, seed, others[0] + jitter[seed], others[1], bits=bits[1]) for seed in seeds]
    return runs + [language_model("uniform", seed, others[0] + jitter[seed], bits=bits[1] + 0.1) for seed in seeds]


def of_claims(words: str, checks: Sequence[Check]) -> list[str]:
    return [check.verdict for check in checks if words in check.claim]


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
    assert of_claims("converge more evenly", found) == [even] * 5
    assert of_claims("One checkpoint", found) == [even] * 5
    assert of_claims("A step of CoBa", found) == [cheap] * 4


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


def finetuned(famo: float, fed: float) -> list[Run]:
    """stubs has the fewest examples; equal weights are drawn in two ways."""
    weights = {"uniform": 0.5, "token_mean": 0.5, "famo": famo, "famo[losses_from=validation]": fed, "coba": 0.5}
    runs = [
        language_model(name, seed, 40 if name != "famo" else 0, problem="finetune_lm", stubs=weight + 0.001 * seed)
        for name, weight in weights.items()
        for seed in SEEDS
    ]
    return runs + [
        language_model("uniform", seed, 40, problem="finetune_lm", bits=0.7, options={"sampling": "proportional"})
        for seed in SEEDS
    ]


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


# ---- side by side ----------------------------------------------------------------------------------------------------


def rows_of(paper: str, protocol: str, ours: Sequence[Ours] = ()) -> dict[tuple[str, str], PublishedRow]:
    own = {protocol: ours} if ours else {}
    found = next(each for each in compare(papers()[paper], own) if each.shown.protocol == protocol)
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
    found = next(each for each in compare(papers()["famo"], {}) if each.shown.protocol == "famo_cityscapes")
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


@pytest.mark.parametrize("paper", [paper for paper in names() if not experiments(paper)])
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
        assert escape_markdown(check.claim) in text
        assert check.numbers.partition(" (")[0] in text
    assert "| published | re-run by others | ours (mean ± s.e., n) | difference | verdict |" in text
    for protocol in papers()[paper]:
        if published(protocol).withheld:
            assert published(protocol).withheld[0].reason.rstrip(".") in text
    assert max(len(line) for line in said.splitlines()) <= 140
    assert write_reproduction(paper, folder, keys) == said
    assert (folder / "reproduce.md").read_text(encoding="utf-8") == text


def test_what_is_inside_the_methods_is_drawn_beside_the_page(tmp_path: Path) -> None:
    made = [run if run.label == "uniform" else fake_runs.probed(run) for run in finetuned(0.7, 0.4)]
    folder = fake_runs.write_suite(tmp_path / "reproduce_coba", made)
    write_reproduction("coba", folder, {run.record.key for run in made})
    (picture,) = folder.glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"]({picture.name})" in (folder / "reproduce.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("paper", EXPERIMENTS)
def test_the_suite_of_a_paper_has_what_its_claims_need(paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One of them needs a package with a model, which most environments lack.
    monkeypatch.setattr(models, "installed_file", lambda: tmp_path)
    for found in EXPERIMENTS[paper]:
        filters = Filters(problems=[found.problem], weighters=found.weighters)
        plan = make_plan(read_suite(suite_of(paper)), filters, "cpu", to_train=False)
        assert {run.weighter.name for run in plan.runs} == set(found.weighters)
        assert {run.role for run in plan.runs} <= {"method", "trial"}
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
