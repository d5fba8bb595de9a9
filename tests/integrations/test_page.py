"""The programs of the page on integrations are complete, short, and run."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from ranks import free_port
from tiny_models import write_model

PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", range(len(PROGRAMS)))
def test_programs_run(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    run(PROGRAMS[place], tmp_path, monkeypatch)
    assert "expected" not in capfd.readouterr().out


def run(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **names: object) -> dict[str, object]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    if "init_process_group" in program:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        for name, value in alone.items():
            monkeypatch.setenv(name, value)
    known = {"MODEL": write_model(folder / "model"), **names}
    exec(compile(program, "integrations.md", "exec"), known)
    return known


def test_programs_are_short() -> None:
    assert len(PROGRAMS) == 7
    assert max(len([line for line in program.splitlines() if line.strip()]) for program in PROGRAMS) <= 25


@pytest.mark.parametrize("place", range(3))
def test_programs_for_other_stacks_are_python_and_give_the_mixin_what_it_takes(place: int) -> None:
    """The stacks themselves are not installed here."""
    from weighting.integrations.transformers import WeightedTasks

    program = re.findall(r"```py\n(.*?)```", PAGE, flags=re.DOTALL)[place]
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    (given,) = [call.keywords for call in calls if any(each.arg == "weighter" for each in call.keywords)]
    taken = inspect.signature(WeightedTasks.__init__).parameters
    assert {each.arg for each in given if each.arg} <= set(taken)
    assert len([line for line in program.splitlines() if line.strip()]) <= 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_difference_on_the_first_page_weights_a_working_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides run; the new one has three changed lines, and logs weights."""
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [line[:1] for line in diff.splitlines()].count("+") == 3
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = [{"prompt": f"{n}", "completion": f" {n} a", "task": task} for n in range(6) for task in ("code", "text")]
    for kept in (" -", " +"):
        model = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / "script"))
        args = SFTConfig(str(tmp_path / "out"), max_steps=2, logging_steps=1, bf16=False, use_cpu=True, report_to="none")
        given = {"model": model, "args": args, "data": Dataset.from_list(rows), "SFTTrainer": SFTTrainer}
        program = "\n".join(line[2:] for line in diff.splitlines() if line[:1] in kept)
        trainer: Any = run("import weighting\n" + program, tmp_path, monkeypatch, **given)["trainer"]
        assert ("weight/code" in trainer.state.log_history[0]) == (kept == " +")
