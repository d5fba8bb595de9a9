"""Every way to make a step of fine-tuning is measured, and memory is that of the process that is looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from places import ROOT

from benchmarks.overhead import finetune_steps
from benchmarks.problems.finetune_lm import FinetuneLM

CPU = torch.device("cpu")
CHILD = """
import torch
from benchmarks.harness.peak_memory import PeakMemory
memory = PeakMemory()
memory.start(torch.device("cpu"))
kept = torch.ones(4_000_000)
print(memory.peak_mb(torch.device("cpu")))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("model_cache")
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own call
def test_every_way_makes_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_steps, "LAYERS", 1)
    made = {}
    for cached in (False, True):
        problem = FinetuneLM(
            **{**FinetuneLM.small, "dtype": "bfloat16", "adapt": {"lora": {"layers": 1}}, "cache_frozen": cached}
        )
        made[cached] = problem, problem.data(0, problem.training)
    ways = {
        name: finetune_steps.make(name, *made[name.endswith(finetune_steps.CACHED)], CPU) for name in finetune_steps.WAYS
    }
    seconds = {name: [steps(2), steps(1)] for name, steps in ways.items()}
    assert all(taken > 0 for both in seconds.values() for taken in both)


@pytest.mark.slow
@pytest.mark.usefixtures("model_cache")
def test_the_loss_by_hand_is_that_of_the_model_itself() -> None:
    problem = FinetuneLM(**FinetuneLM.small)
    batch = problem.data(0, problem.training).train_batch(0)
    causal = problem.pretrained.load(0)
    inputs = finetune_steps._as_trainers_have_it(batch)

    class Peft:
        def get_base_model(self) -> torch.nn.Module:
            return causal

    torch.testing.assert_close(finetune_steps._loss_where_learned(Peft(), inputs), causal(**inputs).loss)


@pytest.mark.slow
@pytest.mark.usefixtures("model_cache")
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own call
def test_the_loop_by_hand_goes_on_from_what_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_steps, "LAYERS", 1)
    losses = []
    for cached in (False, True):
        problem = FinetuneLM(**{**FinetuneLM.small, "adapt": {"lora": {"layers": 1}}, "cache_frozen": cached})
        inputs = finetune_steps._as_trainers_have_it(problem.data(0, problem.training).train_batch(0))
        losses.append(finetune_steps._loss_where_learned(finetune_steps._peft_model(problem).float(), inputs))
        assert ("inputs_embeds" in inputs) == cached
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_memory_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    large = torch.ones(100_000_000)
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < 200 < large.numel() * 4 / 2**20
