"""Code completion in five languages: one small language model, one task per language.

Real text that every installation has, read where it lies and never redistributed. A document is a file, a topic, or a
block of about 4 kB of whole lines; at most 24 kB of a file are taken, files that are no UTF-8 are skipped, line ends become
LF, exact duplicates within a language are taken once.

======== ============================================================= =============================================
task     takes                                                         leaves out, and why
======== ============================================================= =============================================
python   .py files of the standard library                             tests; what distributions package apart
                                                                       (tkinter, idlelib, lib2to3, distutils, ...);
                                                                       generated tables (encodings)
cpp      PyTorch's headers in torch/include: ATen, c10, torch          ATen/ops and all that says it is generated;
                                                                       vendored libraries; hip, mps, metal, miopen,
                                                                       xpu; files written by the build (they differ
                                                                       between the wheels of one version)
cuda     .cuh files and headers below a cuda or cudnn folder of these  the same
stubs    torch's .pyi files, in blocks                                 duplicates (the largest file is there twice)
yaml     torchgen's operator tables, in blocks
english  the standard library's documentation topics (an option)
======== ============================================================= =============================================

Training text is deliberately unequal. Each task's cap in bytes is in ``TRAIN_BYTES``; every batch holds the same number of
sequences of each task, so in 1,500 steps of 4 x 64 tokens a task reads about 384,000 tokens, roughly 1 MB:

======== ========== ===============================================================================================
task     cap        in 1,500 steps
======== ========== ===============================================================================================
python   3,000,000  a third of a pass: its validation loss is still falling at the end
cpp      3,000,000  a third of a pass, the same
cuda       300,000  about three passes
stubs       24,000  about 38 passes: learned by heart; with uniform weights its validation loss is lowest near step 750
                    and 3 to 4% higher at the end (two seeds), while those of python, cuda and yaml still fall
yaml       600,000  one and a half passes, easy and still falling
english    200,000  several passes
======== ========== ===============================================================================================

That is the situation methods like CoBa, which watch the validation losses, were made for.

Splits: by the SHA-256 of the path below its root, 26/256 for validation, the next 26/256 for test; languages that are a few
big files by blocks, of ten consecutive ones one for validation and one for test. Order by the same hash, so that the corpus
is the same on Linux, macOS and Windows wheels of one version. Validation and test text is capped at 64,000 bytes, of which
``validation_sequences`` and ``test_sequences`` evenly spread sequences are read: by default nearly all of the validation
text, since methods fit slopes to its losses, and a batch that comes round again soon tells them little. Corpus, splits,
tokenizer and fingerprint do not depend on the chosen tasks: the tokenizer is trained on the training parts of the five
default languages, or of all of ``data``.

Units: a loss is the mean cross-entropy in nats per token. Perplexity is its exponential. Bits per byte are the nats of all
predicted tokens / ln 2 / UTF-8 bytes these tokens stand for (end-of-text: none), the same unit for every tokenizer.

Batches: ``tokens`` (K, B, T + 1) int64, ``bytes`` (K, B) int64, bytes of the predicted tokens, ``valid`` (K, B) bool, False
for rows that only fill up a task with fewer sequences than the others.

Sources: the five languages stand in for the code-completion data of CoBa (arXiv:2410.06741), which was not released.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contract import Batch, Data, Evaluation, Metric, Problem, Split, Training
from benchmarks.problems.text import models
from benchmarks.problems.text.corpus import Corpus, Sequences, built_in, from_user, sequences
from benchmarks.problems.text.documents import SPLITS
from benchmarks.problems.text.tokenizer import Encoder, Pretrained, TrainedBPE, versions
from benchmarks.seeds import generator
from weighting._checks import check

TRAIN_BYTES: dict[str, int] = {
    "python": 3_000_000,
    "cpp": 3_000_000,
    "cuda": 300_000,
    "stubs": 24_000,
    "yaml": 600_000,
    "english": 200_000,
}
"""Training text of each built-in task, see above."""
USER_TRAIN_BYTES = 3_000_000
"""Training text of each task of the ``data`` option."""


class CodeLM(Problem):
    """A small causal language model (Llama), all parameters shared, with one language per task.

    tasks                 which of the languages, and in which order
    data                  task -> folder of text files, or JSON-lines file, instead of the built-in corpus; its keys are
                          the tasks
    text_fields           fields of a JSON row that are joined to its text; None: ``text``, ``content``, ``code`` or
                          ``prompt`` + ``canonical_solution``, whichever the rows have. Rows with a null field are dropped
    train_bytes           task -> cap of its training text in bytes, for tasks whose default should change
    model                 a model directory or hub id with its own tokenizer; the sizes below, but for sequence_length,
                          are then those of the model
    revision              the revision on the hub
    hidden_size ...       the small model; vocab_size also of the trained tokenizer
    sequence_length       T, predicted tokens of a sequence
    validation_sequences  largest number of validation sequences of a task
    test_sequences        the same for test

    ``data`` raises ValueError of one line where a chosen task's files are missing or too few.
    """

    name = "code_lm"
    version = 2
    all_tasks = ("python", "cpp", "cuda", "stubs", "yaml", "english")
    default_tasks: ClassVar[tuple[str, ...] | None] = all_tasks[:5]
    training = Training(steps=1500, batch_size=4, optimizer="adamw", lr=3e-3, weight_decay=0.01, evaluate_every=50)
    splits = (
        "by hash of a file's path (stubs, yaml and other big files: by 4 kB blocks), a tenth each for validation and test"
    )
    rows_belong_to_tasks = True
    heavy_modules = ("transformers.models.llama.modeling_llama",)
    small = {
        "train_bytes": {"python": 40_000, "cpp": 40_000, "cuda": 30_000, "stubs": 30_000, "yaml": 12_000, "english": 12_000},
        "vocab_size": 300,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_size": 24,
        "sequence_length": 16,
        "validation_sequences": 5,
        "test_sequences": 7,
    }

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        data: Mapping[str, str | Path] | None = None,
        text_fields: Sequence[str] | None = None,
        train_bytes: Mapping[str, int] | None = None,
        model: str | None = None,
        revision: str | None = None,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        intermediate_size: int = 192,
        vocab_size: int = 1024,
        sequence_length: int = 64,
        validation_sequences: int = 384,
        test_sequences: int = 96,
    ) -> None:
        if data is not None:
            if not data:
                raise ValueError("code_lm: expected data with at least one task, found none")
            # The tasks of this instance are the user's, not those of the class.
            vars(self).update(all_tasks=tuple(data), default_tasks=None)
        super().__init__(tasks=tasks)
        for option, value, least in (
            ("hidden_size", hidden_size, 2),
            ("num_layers", num_layers, 1),
            ("num_heads", num_heads, 1),
            ("intermediate_size", intermediate_size, 1),
            ("vocab_size", vocab_size, 257),
            ("sequence_length", sequence_length, 1),
            ("validation_sequences", validation_sequences, 1),
            ("test_sequences", test_sequences, 1),
        ):
            check(self.name, option, value, integer=True, ge=least)
        if hidden_size % (2 * num_heads):
            raise ValueError(
                f"code_lm: expected hidden_size to be a multiple of 2 * num_heads = {2 * num_heads}, found {hidden_size}"
            )
        self.caps = dict(TRAIN_BYTES) if data is None else dict.fromkeys(data, USER_TRAIN_BYTES)
        for task, cap in (train_bytes or {}).items():
            if task not in self.caps:
                raise ValueError(f"code_lm: expected train_bytes for tasks among {', '.join(self.caps)}, found {task!r}")
            check(self.name, f"train_bytes of {task}", cap, integer=True, ge=1)
            self.caps[task] = cap
        self.folders, self.text_fields = data, text_fields
        self.pretrained, self.revision = model, revision
        self.hidden_size, self.num_layers, self.num_heads = hidden_size, num_layers, num_heads
        self.intermediate_size, self.vocab_size, self.sequence_length = intermediate_size, vocab_size, sequence_length
        self.most: dict[Split, int | None] = {"train": None, "validation": validation_sequences, "test": test_sequences}
        self._facts: dict[str, Any] = {}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Bits per byte of each task, and perplexity as its second view."""
        return tuple(
            Metric(name, task, higher_is_better=False, primary=name == "bits_per_byte")
            for task in self.tasks
            for name in ("bits_per_byte", "perplexity")
        )

    def data(self, seed: int, training: Training) -> CodeData:
        """Read, split and tokenise the corpus; the seed orders the training sequences."""
        corpus = (
            built_in(self.caps, self.tasks) if self.folders is None else from_user(self.folders, self.caps, self.text_fields)
        )
        encoder = self._encoder(corpus)
        parts = {
            split: [sequences(encoder, corpus[task], split, self.sequence_length, self.most[split]) for task in self.tasks]
            for split in SPLITS
        }
        whole = [f"{name} {language.sha256}" for name, language in corpus.items()]
        held_out = f"{self.sequence_length} {self.most['validation']} {self.most['test']}"
        fingerprint = hashlib.sha256("\n".join([*whole, encoder.sha256, held_out]).encode()).hexdigest()
        self._facts = {
            "corpus": fingerprint,
            "languages": {
                name: {"sha256": language.sha256, "train_cap": language.cap}
                | {f"{split}_bytes": language.size(split) for split in SPLITS}
                | {f"{split}_documents": len(language.splits[split]) for split in SPLITS}
                for name, language in corpus.items()
            },
            "sequences": {
                task: {split: len(parts[split][place].tokens) for split in SPLITS} for place, task in enumerate(self.tasks)
            },
            "tokenizer": {"sha256": encoder.sha256, "vocab_size": encoder.size},
            "versions": {"python": platform.python_version(), **versions("torch", "tokenizers", "transformers")},
        }
        return CodeData(seed, training.batch_size, self.tasks, parts, fingerprint)

    def files(self) -> dict[str, Path]:
        """The model's folder, unless it is one on the hub, and the data of each task."""
        found = {f"data.{task}": Path(place) for task, place in (self.folders or {}).items() if Path(place).exists()}
        if self.pretrained is not None and Path(self.pretrained).is_dir():
            found["model"] = Path(self.pretrained)
        return found

    def _encoder(self, corpus: Corpus) -> Encoder:
        if self.pretrained is not None:
            return Pretrained(self.pretrained, self.revision)
        # English never trains the tokenizer, so that choosing it changes nothing for the other tasks.
        trainers = CodeLM.default_tasks or () if self.folders is None else tuple(corpus)
        languages = [corpus[name] for name in trainers if name in corpus] or list(corpus.values())
        return TrainedBPE([text for language in languages for text in language.texts("train")], self.vocab_size)

    def model(self, seed: int) -> nn.Module:
        """The small Llama with the parameters of this seed, or the pretrained model."""
        if self.pretrained is not None:
            return models.pretrained(self.pretrained, self.revision, seed, self.sequence_length)
        return models.small(
            seed,
            vocab=self.vocab_size,
            length=self.sequence_length,
            hidden=self.hidden_size,
            intermediate=self.intermediate_size,
            layers=self.num_layers,
            heads=self.num_heads,
        )

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """``(K,)`` mean cross-entropy in nats per token, from one forward pass over the rows of all tasks."""
        valid = batch["valid"]
        rows = self._nats(model, batch).mean(-1)
        # Training batches have no filled rows; the minimum keeps a task without any from dividing by zero.
        return (rows * valid).sum(-1) / valid.sum(-1).clamp(min=1)

    def counts(self, batch: Batch) -> Tensor:
        """The predicted tokens of each task, ``(K,)``."""
        predicted: Tensor = batch["valid"].sum(-1) * (batch["tokens"].shape[-1] - 1)
        return predicted

    def task_rows(self, batch: Batch) -> Sequence[Batch]:
        """Its group of sequences."""
        return [{name: tensor[[place]] for name, tensor in batch.items()} for place in range(self.num_tasks)]

    def micro_batches(self, batch: Batch, number: int) -> Sequence[Batch]:
        """Some sequences of every task in each."""
        sequences = batch["valid"].shape[1]
        if sequences < number:
            raise ValueError(f"code_lm: expected at least {number} sequences of each task, found {sequences}")
        parts = {name: tensor.tensor_split(number, 1) for name, tensor in batch.items()}
        return [{name: split[place] for name, split in parts.items()} for place in range(number)]

    def _nats(self, model: nn.Module, batch: Batch) -> Tensor:
        """``(K, B, T)`` cross-entropy of every predicted token."""
        tokens = batch["tokens"]
        rows = tokens.flatten(0, 1)
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        nats = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        return nats.view(*tokens.shape[:2], -1)

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Token-weighted means over all batches."""
        nats, predicted, size = (torch.zeros(self.num_tasks, dtype=torch.float64) for _ in range(3))
        for batch in batches:
            valid = batch["valid"]
            nats += (self._nats(model, batch).double().sum(-1) * valid).sum(-1).cpu()
            predicted += valid.sum(-1).cpu() * (batch["tokens"].shape[-1] - 1)
            size += (batch["bytes"] * valid).sum(-1).cpu()
        losses = nats / predicted
        bits = nats / math.log(2) / size
        values: dict[str, float] = {}
        for place, task in enumerate(self.tasks):
            values[f"{task}/bits_per_byte"] = float(bits[place])
            values[f"{task}/perplexity"] = float(losses[place].exp())
        return Evaluation(losses, values)

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The MLP's output projection in the last block: ``down_proj`` of the Llama, its like in a pretrained model."""
        return models.last_linear(model)

    def facts(self) -> dict[str, Any]:
        """Hashes, bytes and caps of the languages, the tokenizer, and the versions all this came from."""
        return self._facts


class CodeData(Data):
    """Sequences of every task and split; a training batch takes the next ones of each task's own permutations."""

    def __init__(
        self, seed: int, batch_size: int, tasks: Sequence[str], parts: Mapping[Split, Sequence[Sequences]], fingerprint: str
    ) -> None:
        self.seed, self.batch_size, self.tasks, self.parts = seed, batch_size, tuple(tasks), parts
        self._fingerprint = fingerprint
        self._orders: dict[tuple[str, int], Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which the largest task is seen once; small tasks are repeated."""
        return -(-self._largest("train") // self.batch_size)

    @property
    def num_validation_batches(self) -> int:
        """Mini-batches in which the task with most validation sequences is seen once."""
        return -(-self._largest("validation") // self.batch_size)

    @property
    def fingerprint(self) -> str:
        """Hash of the whole corpus, chosen tasks or not, its tokenizer and the cut into sequences."""
        return self._fingerprint

    def train_batch(self, step: int) -> Batch:
        """``batch_size`` sequences of each task."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return self._collect(
            "train", [self._draw(task, part, places) for task, part in zip(self.tasks, self.parts["train"], strict=True)]
        )

    def validation_batch(self, index: int) -> Batch:
        """``batch_size`` sequences of each task; a task with few wraps around earlier."""
        places = torch.arange(index * self.batch_size, (index + 1) * self.batch_size)
        return self._collect("validation", [places % len(part.tokens) for part in self.parts["validation"]])

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split once; tasks that end early are filled up with rows that are not valid."""
        # Wider batches than in training: fewer calls of the model, and no gradient needs the memory.
        width = 4 * self.batch_size
        for start in range(0, self._largest(split), width):
            places = torch.arange(start, min(start + width, self._largest(split)))
            yield self._collect(split, [places for _ in self.tasks])

    def _largest(self, split: Split) -> int:
        return max(len(part.tokens) for part in self.parts[split])

    def _draw(self, task: str, part: Sequences, places: range) -> Tensor:
        count = len(part.tokens)
        return torch.stack([self._order(task, place // count, count)[place % count] for place in places])

    def _order(self, task: str, epoch: int, count: int) -> Tensor:
        if (task, epoch) not in self._orders:
            if len(self._orders) >= 4 * len(self.tasks):
                self._orders.clear()
            shuffle = generator(self.seed, "code_lm", "order", task, epoch)
            self._orders[task, epoch] = torch.randperm(count, generator=shuffle)
        return self._orders[task, epoch]

    def _collect(self, split: Split, places: Sequence[Tensor]) -> Batch:
        chosen = list(zip(self.parts[split], places, strict=True))
        return {
            "tokens": torch.stack([part.tokens[where % len(part.tokens)] for part, where in chosen]),
            "bytes": torch.stack([part.bytes[where % len(part.tokens)] for part, where in chosen]),
            "valid": torch.stack([where < len(part.tokens) for part, where in chosen]),
        }
