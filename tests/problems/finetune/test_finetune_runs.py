"""Runs: they learn, stop and go on, keep little, and say what to try without memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_parts import (
    LORA,
    SIZES,
    loop_of,
    trained_names,
)
from tiny_models import PAIR, problem, training

from benchmarks.harness.checkpoint import Checkpoint, trained_state
from benchmarks.harness.loop import Loop, StopRequested
from benchmarks.harness.worker import Job, run_job
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.problems import finetune_lm
from benchmarks.problems.finetune_lm import FinetuneLM

pytestmark = pytest.mark.usefixtures("model_cache")


def test_a_run_learns(tmp_path: Path, llama: str) -> None:
    found = problem(tmp_path, SIZES, model=llama, adapt="full", source=PAIR)
    loop = loop_of(found, training(steps=40, evaluate_every=20, lr=0.01), "token_mean")
    loop.begin()
    first = loop._measure("validation").losses
    loop.run()
    assert (loop._measure("validation").losses < first).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["coba", "famo", "gradnorm", "token_mean"])
def test_a_stopped_run_ends_as_if_it_had_not_been_with_dropout_on(tmp_path: Path, llama: str, method: str) -> None:
    adapt = {"lora": {"rank": 2, "layers": 2, "dropout": 0.3}}
    settings = training(steps=9, evaluate_every=3, log_every=1, validation_batches=2, normalize="sum_to_one")

    def run(blocks: int | None, place: Path) -> Callable[[], Loop]:
        stops = iter([False] * (blocks or 0) + [blocks is not None])
        found = problem(tmp_path, SIZES, model=llama, adapt=adapt, cache_frozen=True)
        return lambda: loop_of(
            found, settings, method, checkpoint=Checkpoint(place, "key"), should_stop=lambda: next(stops, False)
        )

    whole = run(None, tmp_path / "whole")()
    outcome = whole.run()
    for blocks in (0, 4):
        place = tmp_path / f"{blocks}"
        stopped = run(blocks, place)()
        with pytest.raises(StopRequested):
            stopped.run()
        again = run(None, place)()
        ended = again.run()
        assert again.resumed == 1
        assert (ended.test, ended.validation, ended.selection) == (outcome.test, outcome.validation, outcome.selection)
        for name, value in trained_state(whole.model).items():
            assert torch.equal(trained_state(again.model)[name], value)
    plain = problem(tmp_path, SIZES, model=llama, adapt=LORA, cache_frozen=True)
    other = loop_of(plain, settings, method)
    other.run()
    name = next(iter(trained_state(whole.model)))
    assert not torch.equal(trained_state(other.model)[name], trained_state(whole.model)[name]), "dropout did nothing"


def test_checkpoints_and_best_copies_hold_trained_parameters_only(tmp_path: Path, llama: str) -> None:
    found = problem(tmp_path, SIZES, model=llama, adapt=LORA)
    loop = loop_of(found, training(steps=4, evaluate_every=2), "uniform", checkpoint=Checkpoint(tmp_path / "c", "key"))
    loop.run()
    loop.save()
    assert loop.checkpoint is not None
    state = loop.checkpoint.load(torch.device("cpu"))
    assert state is not None
    names = trained_names(loop.model)
    assert set(state["model"]) == names
    assert set(state["selector"]["parameters"]) == names
    assert all("lora_" in name for name in names)


def test_a_run_without_memory_is_a_row_with_what_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr(finetune_lm, "nats_of", fail)
    suite = {
        "seeds": [0],
        "problems": [{"name": "finetune_lm", "options": dict(FinetuneLM.small), "training": {"steps": 2}}],
        "weighters": ["uniform"],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(suite))
    plan = make_plan(read_suite(str(tmp_path / "mine.yaml")), Filters(weighters=["uniform"]), "cpu")
    told = run_job(Job(plan.runs[0], "mine", tmp_path / "mine", "cpu"), lambda event: None, lambda: False)
    assert told.state == "out_of_memory"
    assert told.text.startswith(
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB; to try: a smaller training."
    )
    assert "gradient_checkpointing: true" in told.text and "\n" not in told.text
