"""What frozen layers make of examples, kept on disk, is what they would make."""

from __future__ import annotations

from collections.abc import Mapping
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
)
from tiny_models import TRAINING, problem, write_model
from torch import Tensor

from benchmarks.contract import Batch
from benchmarks.problems.finetune.adapt import Adapted

pytestmark = pytest.mark.usefixtures("model_cache")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("adapt", [LORA, {"last_layers": 1}], ids=["lora", "last_layers"])
def test_cached_layers_are_those_of_the_whole_model(
    tmp_path: Path, llama: str, packed: bool, adapt: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [problem(tmp_path, SIZES, model=llama, adapt=adapt, packed=packed, cache_frozen=c) for c in (False, True)]
    whole, cached = (each.data(0, TRAINING).train_batch(1) for each in both)
    assert "hidden" in cached and "hidden" not in whole
    model = exact(adapted(both[1]))
    # In float64 below too, so that rounding does not hide a mistake.
    segments = cached.get("segment", torch.ones_like(cached["tokens"]))
    hidden = torch.zeros(*cached["tokens"].shape, 16, dtype=torch.float64)
    for row, segment in enumerate(segments):
        for number in segment.unique().tolist():
            where = segment == number
            hidden[row, where] = model.below(cached["tokens"][row, where].unsqueeze(0))[0]
    ours, theirs = both[1].losses(model, {**cached, "hidden": hidden}), both[0].losses(model, whole)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert_same(gradients(model, ours), gradients(model, theirs))
    filled = cached["task"].amax(1) >= 0
    assert filled.all()
    inside = (cached["task"] >= 0).unsqueeze(-1)
    torch.testing.assert_close(cached["hidden"].double() * inside, hidden * inside, rtol=1e-4, atol=1e-4)


def test_the_cache_is_read_by_content_and_mended(
    tmp_path: Path, llama: str, model_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    below = Adapted.below

    def noting(self: Adapted, tokens: Tensor) -> Tensor:
        computed.append(1)
        return below(self, tokens)

    monkeypatch.setattr(Adapted, "below", noting)

    def batch(seed: int = 0, **more: Any) -> Batch:
        given = {"model": llama, "cache_frozen": True, "max_length": 70, **more}
        return problem(tmp_path, {"a": 45, "b": 35}, **given).data(seed, TRAINING).train_batch(0)

    before = set(model_cache.glob("hidden-*"))
    first = batch()
    (file,) = (path for path in set(model_cache.glob("hidden-*")) - before if path.suffix != ".lock")
    number = len(computed)
    assert number > 0
    assert torch.equal(batch()["hidden"], first["hidden"])
    batch(seed=1)
    assert len(computed) == number, "it is the same whatever the seed"
    content = file.read_bytes()
    for damaged in (content[:-4], content[:-1] + bytes([content[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        assert torch.equal(batch()["hidden"], first["hidden"])
    assert len(computed) == 4 * number
    for change in ({"dtype": "bfloat16"}, {"max_length": 20}, {"model": write_model(tmp_path / "other", layers=4)}):
        batch(**change)
    assert len(computed) >= 7 * number
    assert file.read_bytes() == content


def test_a_model_that_cannot_be_entered_in_the_middle_is_refused(tmp_path: Path, gpt2: str) -> None:
    """GPT-2 adds the embeddings of places to whatever comes in."""
    with pytest.raises(ValueError, match=r"cache_frozen: false works with any\), found GPT2LMHeadModel"):
        problem(tmp_path, SIZES, model=gpt2, cache_frozen=True).model(0)
    with pytest.raises(ValueError, match="fewer layers than the model has for cache_frozen, found all"):
        problem(tmp_path, SIZES, cache_frozen=True, adapt={"last_layers": 2}).model(0)
