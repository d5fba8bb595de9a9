"""CoBa through TRL's SFTTrainer, and through the suite's own loop: the same model, data and settings, step by step.

A pretrained model with LoRA in its last layers completes files of five languages. Prints the largest differences of losses
and weights, and draws both curves. Needs the extras ``finetune`` and ``trl``; about twenty minutes on two cores::

    PYTHONPATH=. python examples/sft_beside_the_suite.py --steps 60 --out curves.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import weighting
from benchmarks.contract import Batch, Training
from benchmarks.harness.loop import Loop
from benchmarks.harness.optimizer import make_optimizer
from benchmarks.problems.finetune.batches import FinetuneData
from benchmarks.problems.finetune_lm import FinetuneLM

WARMUP, WINDOW, IGNORED = 10, 20, -100
NAMES = ("loss", "weight")
Curves = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Losses and weights, ``(steps, K)`` each."""


def main() -> None:
    """Train in both ways and compare."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--layers", type=int, default=6, help="the last ones, which LoRA adapts")
    parser.add_argument("--model", help="a folder or a hub id; none: the installed model; tiny: an untrained one")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    options = parser.parse_args()
    lora = {"rank": 16, "layers": options.layers}
    problem = FinetuneLM(model=options.model, adapt={"lora": lora}, validation_examples=4, test_examples=1)
    changed = {"steps": options.steps, "warmup_steps": 0, "normalize": "none", "lr_schedule": "constant"}
    training = problem.training.model_copy(update=changed)
    data = problem.data(0, training)
    by_suite = trained_by_suite(problem, data, training)
    by_trainer = trained_by_trainer(problem, data, training)
    for name, one, other in zip(NAMES, by_suite, by_trainer, strict=True):
        apart = np.abs(one - other)
        print(f"{name}: at most {apart.max():.3g} apart, {(apart / np.abs(one)).max():.3g} of its size, in {len(one)} steps")
    draw(options.out, problem.tasks, by_suite, by_trainer)


def coba(problem: FinetuneLM) -> weighting.Weighter:
    """With a warm-up and a window for a short run."""
    return weighting.create("coba", problem.num_tasks, warmup=WARMUP, window=WINDOW)


def trained_by_suite(problem: FinetuneLM, data: FinetuneData, training: Training) -> Curves:
    """By the loop that ``run_bench.py`` trains with."""
    loop = Loop(problem, data, coba(problem), training, 0, device=torch.device("cpu"))
    loop.begin()
    steps = [loop.train_step() for _ in range(training.steps)]
    losses, weights = (torch.stack([getattr(step, name).double() for step in steps]) for name in ("losses", "weights"))
    return losses.numpy(), weights.numpy()


def trained_by_trainer(problem: FinetuneLM, data: FinetuneData, training: Training) -> Curves:
    """By SFTTrainer, on the rows of the same batches in the same order."""
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from weighting.integrations.trl import WeightedTasks

    class MyTrainer(WeightedTasks, SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            rows: Any = self.train_dataset
            return torch.utils.data.SequentialSampler(rows)

    batches = [rows_of(data.train_batch(step), problem) for step in range(training.steps)]
    validation = [rows_of(data.validation_batch(number), problem) for number in range(data.num_validation_batches)]
    model: Any = problem.model(0).causal
    optimizer = make_optimizer(model, training)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder,
            max_steps=training.steps,
            per_device_train_batch_size=len(batches[0]),
            max_grad_norm=training.grad_clip or 0.0,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer: Any = MyTrainer(
            model,
            arguments,
            train_dataset=Dataset.from_list([row for rows in batches for row in rows]),
            processing_class=AutoTokenizer.from_pretrained(problem.pretrained.place),
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
            weighter=coba(problem),
            tasks=problem.tasks,
            validation=Dataset.from_list([row for rows in validation for row in rows]),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    losses, weights = (np.array([[row[f"{name}/{task}"] for task in problem.tasks] for row in logged]) for name in NAMES)
    return losses, weights


def rows_of(batch: Batch, problem: FinetuneLM) -> list[dict[str, Any]]:
    """A batch as rows of a data set that is tokenized already, without what fills them up."""
    found = []
    for tokens, task in zip(batch["tokens"], batch["task"], strict=True):
        end = int(task.ge(0).nonzero().max()) + 1
        labels = torch.where(task >= 0, tokens, IGNORED)
        name = problem.all_tasks[int(task.max())]
        found.append({"input_ids": tokens[:end].tolist(), "labels": labels[:end].tolist(), "task": name})
    return found


def draw(path: Path, tasks: tuple[str, ...], by_suite: Curves, by_trainer: Curves) -> None:
    """Losses and weights by step: lines by the suite, points by the trainer."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, places = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for place, name, one, other in zip(places, ("loss in nats per token", "weight"), by_suite, by_trainer, strict=True):
        for number, task in enumerate(tasks):
            (line,) = place.plot(one[:, number], label=f"{task}, suite")
            place.plot(other[:, number], ".", color=line.get_color(), label=f"{task}, SFTTrainer")
        place.set_xlabel("step")
        place.set_ylabel(name)
    places[1].legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
