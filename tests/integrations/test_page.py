"""The programs of the page on integrations are complete, short, and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT
from tiny_models import write_model

PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", range(len(PROGRAMS)))
def test_programs_run(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    names: dict[str, object] = {"MODEL": write_model(tmp_path / "model")}
    exec(compile(PROGRAMS[place], "integrations.md", "exec"), names)
    told = capsys.readouterr().out
    assert "expected" not in told


def test_programs_are_short() -> None:
    assert len(PROGRAMS) == 5
    assert [
        len([line for line in program.splitlines() if line.strip()]) for program in PROGRAMS if program.count("\n") > 30
    ] == []
    assert max(len([line for line in program.splitlines() if line.strip()]) for program in PROGRAMS) <= 25
