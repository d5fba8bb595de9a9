"""The cost page: parts of it can be measured alone, and what was measured before is kept."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import Bench, assert_refused

from benchmarks.errors import UserError
from benchmarks.overhead import measure
from benchmarks.overhead.parts import PARTS, Part

CPU = torch.device("cpu")


def part(heading: str, number: float, *, installed: bool = True) -> Part:
    return Part(
        heading, lambda: "In words.", lambda _: pd.DataFrame({"ratio": [number]}), lambda: installed, "the extra `x`"
    )


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> dict[str, Part]:
    made = {"one": part("One", 1.5), "other": part("Other", 2.5)}
    monkeypatch.setattr(measure, "PARTS", made)
    return made


def test_a_part_alone_leaves_the_others_as_they_are(two: dict[str, Part], tmp_path: Path) -> None:
    measure.write_costs(tmp_path, CPU)
    two["other"] = part("Other", 3.5)
    text = measure.write_costs(tmp_path, CPU, ["other"])
    assert text == (tmp_path / "overhead" / "overhead.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith(("#", "|"))] == [
        *("# What a step costs", "## One", "| ratio |", "| ---: |", "| 1.500 |"),
        *("## Other", "| ratio |", "| ---: |", "| 3.500 |"),
    ]
    assert pd.read_csv(tmp_path / "overhead" / "one.csv")["ratio"].tolist() == [1.5]
    assert measure.write_costs(tmp_path, CPU, ["one"]).splitlines()[2] == "## One", "in the order of the page"


def test_what_was_measured_stays_where_a_later_part_fails(two: dict[str, Part], tmp_path: Path) -> None:
    def fails(_: torch.device) -> pd.DataFrame:
        raise RuntimeError("stopped")

    two["other"] = Part("Other", str, fails)
    with pytest.raises(RuntimeError, match="stopped"):
        measure.write_costs(tmp_path, CPU)
    assert "| 1.500 |" in (tmp_path / "overhead" / "overhead.md").read_text(encoding="utf-8")


def test_what_is_not_installed_is_said(two: dict[str, Part], tmp_path: Path) -> None:
    two["other"] = part("Other", 2.5, installed=False)
    assert "Not measured: it needs the extra `x`." in measure.write_costs(tmp_path, CPU)
    with pytest.raises(UserError, match=r"^overhead: other needs the extra `x`$"):
        measure.write_costs(tmp_path, CPU, ["other"])


def test_an_unknown_part_is_one_line(bench: Bench) -> None:
    assert_refused(bench("overhead", "stepps"), f"overhead: expected parts among {', '.join(PARTS)}, found stepps")
