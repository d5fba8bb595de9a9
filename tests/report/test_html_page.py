"""The page as a file: one, whole, escaped, the same again; what a browser makes of it is in test_html_browser.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import train
from fake_runs import METHODS, make, suite, write_suite
from suites import suite_file

from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.cli import main as command_line
from benchmarks.records.schema import Run
from benchmarks.report.html.page import write_html


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_suite(tmp_path_factory.mktemp("html") / "fake", suite(languages=3))
    return write_html(suite_tables(folder), "Who <wins> & why?").read_text(encoding="utf-8")


def without_library(page: str) -> str:
    """The page less the plotting library, which is one long script."""
    scripts = re.findall(r"<script>.*?</script>", page, flags=re.DOTALL)
    return page.replace(max(scripts, key=len), "")


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    own = without_library(page)
    assert len(own) < len(page) / 2
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)[^"']*""", own) == []
    assert "@import" not in own
    assert "url(" not in own


def test_every_method_problem_failure_and_question_is_there(page: str) -> None:
    own = without_library(page)
    for method in METHODS:
        assert f'<input type="checkbox" checked value="{method}">' in own
        assert f'<tr data-method="{method}">' in own
    for text in ("pictures", "languages", "famo_toy", "Who &lt;wins&gt; &amp; why?", "loss of task left is nan", "0123abc"):
        assert text in own
    assert own.index('id="verdict"') < own.index('class="charts"')


def test_charts_are_json_with_curves_of_every_method(page: str) -> None:
    text = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, flags=re.DOTALL)
    assert text is not None
    figures = json.loads(text.group(1))
    places = set(re.findall(r'<div id="(chart-[^"]+)"', page))
    assert set(figures) == places
    first = figures["chart-pictures-0"]
    named = [trace["meta"]["method"] for trace in first["data"] if trace.get("name")]
    # One run of it diverged, and is a line of its own.
    assert named == ["STL", *METHODS, "gradnorm"]
    assert all(y is None or isinstance(y, float) for trace in first["data"] for y in trace["y"])


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = 'a"><script>alert(1)</script>&amp;'
    folder = write_suite(tmp_path / "fake", [make("uniform"), make(evil)])
    text = write_html(suite_tables(folder), evil).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "\\u003cscript>alert" in text


def test_every_table_stands_there_once_and_failures_and_flags_have_their_section(page: str) -> None:
    own = without_library(page)
    regions = re.findall(r'role="region" aria-label="([^"]*)"', own)
    assert len(regions) == len(set(regions)) > 10
    start = own.index('id="failures"')
    assert start < own.index("pictures: Failed runs") < own.index('id="reproduce"')
    assert "None." not in own[start : own.index('id="reproduce"')]


def test_curves_differ_in_more_than_colour(page: str) -> None:
    samples = re.findall(r'<label><input type="checkbox" checked value="([^"]*)"><svg[^>]*>(.*?)</svg>', page)
    assert [name for name, _ in samples][:2] == ["STL", "uniform"]
    assert len({shape for _, shape in samples}) == len(samples) == len(METHODS) + 2  # STL and a variant of coba


def on_the_simplex(number: int) -> list[Run]:
    tasks = tuple(f"task {index}" for index in range(number))
    runs = [make("uniform", tasks=tasks), make("famo", tasks=tasks)]
    for share in (0.2, 0.5, 0.8):
        weights = [share, *[(1 - share) / (number - 1)] * (number - 1)]
        runs.append(make(f"static({share})", tasks=tasks, role="simplex", hyperparameters={"weights": weights}))
    return runs


@pytest.mark.parametrize(("number", "fronts"), [(2, 1), (3, 3), (6, 0)])
def test_fronts_are_drawn_for_few_pairs_of_metrics(number: int, fronts: int, tmp_path: Path) -> None:
    text = write_html(suite_tables(write_suite(tmp_path / "fake", on_the_simplex(number))), "").read_text(encoding="utf-8")
    assert without_library(text).count("<h3>Pareto front: ") == fronts


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    runs = suite(seeds=(0,), languages=2)
    first = write_html(suite_tables(write_suite(tmp_path / "one" / "fake", runs)), "").read_bytes()
    assert write_html(suite_tables(write_suite(tmp_path / "two" / "fake", runs[::-1])), "").read_bytes() == first


def test_a_suite_without_records_is_said_to_have_none(tmp_path: Path) -> None:
    assert "No usable run was found." in write_html(suite_tables(tmp_path / "none"), "").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = suite_file(tmp_path, training={"steps": 6})
    places = ["--out", str(tmp_path / "out"), "--plots", str(tmp_path / "plots")]
    assert train(path) == 0
    assert not (tmp_path / "out" / "mine" / "report.html").exists()
    page = tmp_path / "out" / "mine" / "report.html"
    assert (
        command_line.main(["report", str(path), "--html", "--trust", "--weighters", "uniform", "--seeds", "0", *places]) == 0
    )
    assert str(page) in capsys.readouterr().out
    command = f"python run_bench.py report {path} --weighters uniform --seeds 0 --trust --html"
    assert f"<dd>{command}</dd>" in page.read_text(encoding="utf-8")
