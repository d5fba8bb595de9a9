"""What of a model is trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_parts import (
    LORA,
    SIZES,
    adapted,
    assert_same,
    exact,
    gradients,
    trained_names,
)
from tiny_models import TRAINING, problem
from torch import Tensor, nn

from benchmarks.harness.checkpoint import trained_state

pytestmark = pytest.mark.usefixtures("model_cache")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_lora_trains_adapters_of_the_last_layers_alone(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    found = problem(tmp_path, SIZES, model=request.getfixturevalue(kind), adapt=LORA)
    batch = found.data(0, TRAINING).train_batch(0)
    own, other, again = adapted(found, 0), adapted(found, 1), adapted(found, 0)
    names = trained_names(own)
    assert names and all("lora_" in name for name in names)
    layers = {name.partition("layers." if kind == "llama" else "h.")[2].partition(".")[0] for name in names}
    assert layers == {"1", "2"}
    assert set(trained_state(own)) == names
    # Adapters begin as nothing: the model is the pretrained one, whatever the seed.
    full = problem(tmp_path, SIZES, model=request.getfixturevalue(kind), adapt="full")
    full.data(0, TRAINING)
    torch.testing.assert_close(found.losses(own, batch), full.losses(adapted(full), batch))
    mine, theirs, same = (dict(each.named_parameters()) for each in (own, other, again))
    down = sorted(name for name in names if "lora_A" in name)
    assert not any(torch.equal(mine[name], theirs[name]) for name in down)
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert all(value.dtype == torch.float32 for value in mine.values())
    last = "layers.2.mlp.down_proj.lora_" if kind == "llama" else "h.2.mlp.c_proj.lora_"
    shared = found.shared_layer(own)
    assert isinstance(shared, nn.Module)
    kept = {id(value) for value in shared.parameters() if value.requires_grad}
    assert kept == {id(value) for name, value in mine.items() if last in name}


def test_lora_takes_the_named_layers(tmp_path: Path, llama: str) -> None:
    some = {"lora": {"target_modules": ["q_proj", "down_proj"], "rank": 3, "alpha": 12.0}}
    own = adapted(problem(tmp_path, SIZES, model=llama, adapt=some))
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trained_names(own)} == {"q_proj", "down_proj"}
    layer: Any = next(module for module in own.modules() if hasattr(module, "lora_A"))
    assert (layer.r["default"], layer.scaling["default"]) == (3, 4.0)
    with pytest.raises(ValueError, match=r"target_modules among q_proj, k_proj, v_proj, .*, found qproj"):
        problem(tmp_path, SIZES, model=llama, adapt={"lora": {"target_modules": ["qproj"]}}).model(0)
    with pytest.raises(ValueError, match="at most the 3 layers of the model, found 4"):
        problem(tmp_path, SIZES, model=llama, adapt={"lora": {"layers": 4}}).model(0)


def test_without_peft_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"expected the package peft for adapt: \{lora: \.\.\.\}, found none: pip install"):
        problem(tmp_path, SIZES, adapt="lora").model(0)


def test_last_layers_and_the_whole_model(tmp_path: Path, llama: str) -> None:
    last = trained_names(adapted(problem(tmp_path, SIZES, model=llama, adapt={"last_layers": 1})))
    assert {name.partition("model.")[2].split(".")[0] for name in last} == {"layers", "norm"}
    assert {name.split(".")[3] for name in last if "layers" in name} == {"2"}
    full = adapted(problem(tmp_path, SIZES, model=llama, adapt="full"))
    assert trained_names(full) == {name for name, _ in full.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, llama: str) -> None:
    found: list[list[Tensor]] = []
    for checkpointing in (False, True):
        own = problem(tmp_path, SIZES, model=llama, adapt="full", gradient_checkpointing=checkpointing)
        batch = own.data(0, TRAINING).train_batch(0)
        model = exact(adapted(own))
        assert bool(getattr(model.decoder, "gradient_checkpointing", False)) is checkpointing
        found.append(gradients(model, own.losses(model, batch)))
    assert_same(found[0], found[1])


def test_bfloat16_trains_float32_parameters(tmp_path: Path, llama: str) -> None:
    found = {dtype: problem(tmp_path, SIZES, model=llama, dtype=dtype) for dtype in ("float32", "bfloat16")}
    values = {}
    for dtype, own in found.items():
        batch = own.data(0, TRAINING).train_batch(0)
        model = adapted(own)
        types = {value.dtype for value in model.parameters() if not value.requires_grad}
        assert types == {getattr(torch, dtype)}
        assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}
        values[dtype] = own.losses(model, batch)
        assert values[dtype].dtype == torch.float32
    torch.testing.assert_close(values["bfloat16"], values["float32"], rtol=0.05, atol=0.05)
    assert not torch.equal(values["bfloat16"], values["float32"])


def test_the_dropout_of_a_model_is_off(tmp_path: Path, gpt2: str) -> None:
    found = problem(tmp_path, SIZES, model=gpt2, adapt="full")
    batch = found.data(0, TRAINING).train_batch(0)
    own = adapted(found)
    assert own.training
    assert torch.equal(found.losses(own, batch), found.losses(own, batch))
