"""The page as a file: one, whole, escaped, the same again; what a browser makes of it is in test_html_browser.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fake_runs import METHODS, make, suite, write_suite

import run_bench
from benchmarks.html import write_html


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_suite(tmp_path_factory.mktemp("html") / "fake", suite(languages=3))
    return write_html(folder, "Who <wins> & why?").read_text(encoding="utf-8")


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
    assert named == ["STL", *METHODS[:3], *METHODS[3:]]
    assert all(y is None or isinstance(y, float) for trace in first["data"] for y in trace["y"])


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = 'a"><script>alert(1)</script>&amp;'
    folder = write_suite(tmp_path / "fake", [make("uniform"), make(evil)])
    text = write_html(folder, evil).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "\\u003cscript>alert" in text


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "fake", suite(seeds=(0,), languages=2))
    first = write_html(folder, "").read_bytes()
    assert write_html(folder, "").read_bytes() == first


def test_a_suite_without_records_is_said_to_have_none(tmp_path: Path) -> None:
    assert "No usable run was found." in write_html(tmp_path / "none", "").read_text(encoding="utf-8")


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite_file = tmp_path / "mine.yaml"
    tiny = Path(__file__).resolve().parent / "tiny_problem.py"
    suite_file.write_text(f"seeds: [0]\nproblems: ['{tiny}:Tiny']\nweighters: [uniform]\ntraining: {{steps: 6}}\n")
    places = ["--out", str(tmp_path / "out"), "--plots", str(tmp_path / "plots")]
    assert run_bench.main([str(suite_file), "--jobs", "1", *places]) == 0
    assert not (tmp_path / "out" / "mine" / "report.html").exists()
    assert run_bench.main(["report", str(suite_file), "--html", *places]) == 0
    assert str(tmp_path / "out" / "mine" / "report.html") in capsys.readouterr().out
