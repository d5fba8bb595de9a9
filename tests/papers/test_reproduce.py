"""Published, re-run and own numbers side by side, as a page and a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import fake_runs
import pytest
from paper_runs import (
    OFF,
    ON,
    checks_of,
    finetuned,
    landscape,
    languages,
    regressions,
)

from benchmarks.cli import main as command_line
from benchmarks.papers.claims import Ours
from benchmarks.papers.comparison import PublishedRow, compare
from benchmarks.papers.experiments import EXPERIMENTS, experiments, names, suite_of
from benchmarks.papers.published import papers, published
from benchmarks.papers.reproduction import write_reproduction
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.problems.finetune import models
from benchmarks.records.schema import Run
from benchmarks.report.formatting import MISSING, escape_markdown


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


# ---- the command ----------------------------------------------------------------------------------------------------


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
