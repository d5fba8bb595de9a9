"""Settings of one method: their table and their picture."""

from __future__ import annotations

from pathlib import Path

import fake_runs
import pytest

from benchmarks.analysis.ablation import method_settings, settings_table
from benchmarks.analysis.scores import CHANGE, PRICE, SPREAD, scores
from benchmarks.analysis.sections import Section, sections
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.records.schema import Run
from benchmarks.report.suite_report import write_report


def setting(name: str, label: str, seed: int) -> Run:
    run = fake_runs.make(name, seed, hyperparameters={"for": label})
    spec = run.record.run
    weighter = spec.weighter.model_copy(update={"label": label})
    return Run(run.record.model_copy(update={"run": spec.model_copy(update={"weighter": weighter})}), run.trajectory)


@pytest.fixture
def section() -> Section:
    runs = [fake_runs.make("uniform", seed) for seed in (0, 1, 2)]
    labels = ("coba", "coba[tau=2]", "coba_mftcoder")
    runs += [setting(label.partition("[")[0], label, seed) for label in labels for seed in (0, 1, 2)]
    (found,), warnings = sections(runs)
    assert warnings == []
    return found


def test_the_settings_of_a_method_stand_together(section: Section) -> None:
    (found,) = method_settings(section)
    assert (found.method, found.base) == ("coba", "coba")
    assert [found.setting(label) for label in found.labels] == ["default", "tau=2", "coba_mftcoder"]


def test_changes_are_paired_by_seed(section: Section) -> None:
    runs = scores(section).methods
    table = settings_table(scores(section))
    assert table is not None
    rows = table.frame.set_index("label")
    wide = runs.pivot_table(index="seed", columns="method", values=PRICE)
    expected = (wide["coba[tau=2]"] - wide["coba"]).mean()
    assert rows.loc["coba[tau=2]", CHANGE + PRICE] == pytest.approx(expected)
    assert bool(rows[CHANGE + PRICE].isna()["coba"])
    assert SPREAD in {column.key for column in table.columns}
    assert "uniform" not in set(rows["method"])


def test_no_settings_no_table() -> None:
    (section,), _ = sections([fake_runs.make(name, seed) for name in ("uniform", "coba") for seed in (0, 1)])
    assert settings_table(scores(section)) is None


def test_the_page_shows_table_and_picture(section: Section, tmp_path: Path) -> None:
    fake_runs.write_suite(tmp_path / "suite", list(section.runs.values()))
    write_report(suite_tables(tmp_path / "suite"), tmp_path / "plots")
    page = (tmp_path / "suite" / "report.md").read_text(encoding="utf-8")
    assert "Settings of one method" in page and "pictures_settings.png" in page
    assert (tmp_path / "plots" / "pictures_settings.png").stat().st_size > 10_000
