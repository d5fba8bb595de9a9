"""The published numbers: they load, agree with themselves where they can be recomputed, and only verified ones come out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from suites import as_yaml

from benchmarks.analysis import statistics
from benchmarks.analysis.delta_m import changes_percent, over_metrics, over_tasks
from benchmarks.errors import UserError
from benchmarks.papers.published import FOLDER, Published, papers, protocols, published

FAMO = "Liu et al., FAMO"


def raw(protocol: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load((FOLDER / f"{protocol}.yaml").read_text(encoding="utf-8"))
    return content


def row(shown: Published, method: str, source: str = "") -> dict[str, float]:
    """Metric key -> value."""
    found = [each for each in shown.numbers if each.method == method and source in each.source]
    return {each.metric.key: each.value for each in found}


def delta_m(shown: Published, values: dict[str, float], baseline: dict[str, float]) -> float:
    keys = shown.delta_m_over
    higher = {metric.key: metric.better == "higher" for metric in shown.metrics}
    changes = changes_percent(
        np.array([values[key] for key in keys]), np.array([baseline[key] for key in keys]), [higher[key] for key in keys]
    )
    return float(over_metrics(changes))


@pytest.mark.parametrize("protocol", protocols())
def test_every_file_loads_and_accounts_for_all_its_numbers(protocol: str) -> None:
    shown = published(protocol)
    tables = raw(protocol)["tables"]
    held = sum(each.count for each in shown.withheld)
    there = sum(value is not None for table in tables for values in table["rows"].values() for value in values)
    assert len(shown.numbers) + held == there
    assert shown.protocol == protocol
    assert shown.reruns is None or shown.reruns in protocols()


def test_every_paper_of_the_main_methods_is_there() -> None:
    assert {"famo", "gradnorm", "coba", "uncertainty", "dwa"} <= set(papers())
    assert sorted({protocol for listed in papers().values() for protocol in listed}) == protocols()


# ---- recomputed ------------------------------------------------------------------------------------------------------

NYUV2 = [method for method in raw("famo_nyuv2")["tables"][0]["rows"] if method != "single_task"]


@pytest.mark.parametrize("method", NYUV2)
def test_delta_m_of_nyuv2_follows_from_the_rows(method: str) -> None:
    shown = published("famo_nyuv2")
    own = row(shown, method)
    # The paper meaned Δm over unrounded runs; IMTL-G's row is the one that is further off, as its caveat says.
    tolerance = 0.17 if method == "imtl_g" else 0.015
    assert delta_m(shown, own, row(shown, "single_task")) == pytest.approx(own["delta_m"], abs=tolerance)


def test_mean_ranks_of_nyuv2_follow_from_the_rows() -> None:
    shown = published("famo_nyuv2")
    metrics = [metric for metric in shown.metrics if metric.key in shown.delta_m_over]
    values = np.array([[row(shown, method)[metric.key] for metric in metrics] for method in NYUV2])
    ranks = statistics.mean_ranks(values, [metric.better == "higher" for metric in metrics])
    printed = [row(shown, method)["mean_rank"] for method in NYUV2]
    assert ranks == pytest.approx(printed, abs=0.01)


def test_within_tasks_first_the_order_of_nyuv2_turns() -> None:
    shown = published("famo_nyuv2")
    metrics = [metric for metric in shown.metrics if metric.key in shown.delta_m_over]
    higher, tasks = [metric.better == "higher" for metric in metrics], [str(metric.task) for metric in metrics]
    baseline = np.array([row(shown, "single_task")[metric.key] for metric in metrics])

    def within(method: str) -> float:
        values = np.array([row(shown, method)[metric.key] for metric in metrics])
        return float(over_tasks(changes_percent(values, baseline, higher), tasks))

    assert [within("uniform"), within("nash_mtl"), within("famo")] == pytest.approx([-0.88, -7.65, -6.79], abs=0.01)


CITYSCAPES = [method for method in raw("famo_cityscapes")["tables"][0]["rows"] if method != "single_task"]


@pytest.mark.parametrize("method", CITYSCAPES)
def test_delta_m_of_cityscapes_follows_from_the_rows(method: str) -> None:
    shown = published("famo_cityscapes")
    own = row(shown, method)
    assert delta_m(shown, own, row(shown, "single_task")) == pytest.approx(own["delta_m"], abs=0.11)


def test_the_misprinted_row_is_flagged_and_does_not_agree() -> None:
    shown = published("famo_cityscapes")
    table = raw("famo_cityscapes")["tables"][0]
    keys = table["metrics"]
    misprinted = dict(zip(keys, table["rows"]["uniform"], strict=True))
    assert [(each.kind, each.methods, each.count) for each in shown.withheld] == [("misprint", ("LS",), 6)]
    assert row(shown, "uniform", FAMO) == {}
    # What is shown instead, and what the misprinted row comes to: SI's.
    instead = row(shown, "uniform")
    assert instead["delta_m"] == 22.60
    assert delta_m(shown, instead, row(shown, "single_task")) == pytest.approx(22.62, abs=0.01)
    assert abs(delta_m(shown, misprinted, row(shown, "single_task")) - 22.60) > 8
    assert any("misprint" in caveat for each in shown.numbers if each.method == "uniform" for caveat in each.caveats)
    # Its mean rank is that of the row shown instead, not of the numbers beside it.
    metrics = [metric for metric in shown.metrics if metric.key in shown.delta_m_over]

    def rank(values: dict[str, float]) -> float:
        rows = [values, *(row(shown, method, FAMO) for method in CITYSCAPES if method != "uniform")]
        matrix = np.array([[each[metric.key] for metric in metrics] for each in rows])
        return float(statistics.mean_ranks(matrix, [metric.better == "higher" for metric in metrics])[0])

    assert abs(rank(instead) - misprinted["mean_rank"]) < 0.3 < abs(rank(misprinted) - misprinted["mean_rank"])


@pytest.mark.parametrize("method", [name for name in raw("famo_qm9")["tables"][0]["rows"] if name != "single_task"])
def test_delta_m_of_qm9_follows_from_the_rows(method: str) -> None:
    shown = published("famo_qm9")
    own = row(shown, method, FAMO)
    # Dipole moment, polarisability, R² and cv have two digits or one, which is a percent or more of their size.
    assert delta_m(shown, own, row(shown, "single_task", "code")) == pytest.approx(own["delta_m"], abs=1.05)


# ---- what is held back -----------------------------------------------------------------------------------------------


def test_an_unverified_number_does_not_get_out() -> None:
    for protocol in protocols():
        shown = published(protocol)
        text = repr(shown.withheld) + shown.note()
        for table in raw(protocol)["tables"]:
            if table["status"] == "unverified":
                place = f"{table['source']}, {table['place']}"
                given = {(each.method, each.metric.key) for each in shown.numbers if each.source == place}
                assert not given & {(method, key) for method in table["rows"] for key in table["metrics"]}
                assert table["reason"] in shown.note()
                values = {str(value) for values in table["rows"].values() for value in values if value is not None}
                assert [value for value in values if "." in value and value in text] == []


def copied(tmp_path: Path, protocol: str, change: dict[str, Any]) -> Path:
    """A folder with one file, its first table changed."""
    content = raw(protocol)
    content["tables"][0].update(change)
    (tmp_path / f"{protocol}.yaml").write_text(as_yaml(content), encoding="utf-8")
    return tmp_path


def test_a_number_that_loses_its_status_is_held_back(tmp_path: Path) -> None:
    folder = copied(tmp_path, "cagrad_nyuv2", {"status": "unverified", "reason": "it was only heard of"})
    shown = published("cagrad_nyuv2", folder)
    assert shown.numbers == ()
    assert shown.note().startswith("2 numbers of CAGrad c=0.8, CAGrad c=0.8 + UW from ")
    assert "it was only heard of" in shown.note()
    assert "-2.29" not in repr(shown)


# ---- damaged files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"status": "rumour"}, "tables[0].status: expected 'verified' or 'unverified', found 'rumour'"),
        ({"status": "unverified"}, "tables[0]: expected a reason why the numbers are unverified"),
        ({"rows": {"cagrad_08": [-2.29, 1.0]}}, "tables[0]: expected 1 numbers in the row of 'cagrad_08'"),
        ({"rows": {"cagrad_08": ["-2.29"]}}, "tables[0].rows.cagrad_08[0]: expected"),
        ({"rows": {"cagrad_08": [float("nan")]}}, "tables[0].rows.cagrad_08[0]: expected"),
        ({"metrics": ["delta"]}, "unknown metric 'delta'; did you mean 'delta_m'?"),
        ({"caveats": [{"method": "cagrad", "text": "?"}]}, "unknown method 'cagrad'"),
        ({"colour": "red"}, "tables[0].colour: unknown key 'colour'"),
    ],
)
def test_a_damaged_file_is_one_line(change: dict[str, Any], fragment: str, tmp_path: Path) -> None:
    folder = copied(tmp_path, "cagrad_nyuv2", change)
    with pytest.raises(UserError) as caught:
        published("cagrad_nyuv2", folder)
    message = str(caught.value)
    line = int(message.removeprefix(f"{folder / 'cagrad_nyuv2.yaml'}:").partition(":")[0])
    assert (line > 1) == ("tables[0]" in message)
    assert fragment in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("{", "expected YAML"),
        ("- 1", "expected a mapping"),
        ("title: a\ntitle: b", ":2: title: expected the key once, found it twice"),
        ("title: a", "expected the key 'protocol', found none"),
    ],
)
def test_what_is_no_protocol_is_one_line(text: str, fragment: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"odd\.yaml") as caught:
        published("odd", tmp_path)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_renamed_file_and_an_unknown_protocol_are_refused(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "cagrad_nyuv2.yaml", tmp_path / "cagrad.yaml")
    with pytest.raises(UserError, match="expected protocol 'cagrad', as the file is called, found 'cagrad_nyuv2'"):
        published("cagrad", tmp_path)
    with pytest.raises(UserError, match="unknown protocol 'cagrat'; did you mean 'cagrad'"):
        published("cagrat", tmp_path)
