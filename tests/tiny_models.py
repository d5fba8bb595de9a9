"""Pretrained models of a few thousand parameters, as folders, and data beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmarks.contract import Training
from benchmarks.problems.finetune_lm import FinetuneLM
from benchmarks.testing.data import bytes_of

TEXTS = ["def add(a, b):\n    return a + b\n", "int add(int a, int b) {\n  return a + b;\n}\n", "the sum of two numbers\n"]
TRAINING = FinetuneLM.training.model_copy(update={"batch_size": 2, "warmup_steps": 0})


def write_model(place: Path, *, layers: int = 3, kind: str = "llama", begins: bool = False, chat: bool = False) -> str:
    """A random model with a BPE tokenizer trained on a few lines. begins: whether texts open with a token for that."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(
        TEXTS * 20,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False),
    )
    if begins:
        trained.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=trained, bos_token="<s>", eos_token="</s>")
    if chat:
        tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}" + (
            "{% if add_generation_prompt %}<s>assistant: {% endif %}"
        )
    common: dict[str, Any] = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "llama":
            config = LlamaConfig(
                **common,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=layers,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=128,
                tie_word_embeddings=True,
            )
            model: Any = LlamaForCausalLM(config)
        else:
            model = GPT2LMHeadModel(GPT2Config(**common, n_embd=16, n_layer=layers, n_head=2, n_positions=128))
    # Larger than they are made, so that tokens differ in their probabilities.
    for parameter in model.parameters():
        parameter.data *= 4
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def rows(count: int, name: str = "add") -> list[dict[str, Any]]:
    """Rows with a prompt and a completion, of unequal lengths."""
    return [
        {
            "id": f"X/{number}",
            "prompt": f"def {name}{number}(a):\n",
            "completion": "    " + "a + " * (number % 7) + f"{number}\n",
        }
        for number in range(count)
    ]


def write_rows(path: Path, found: Sequence[Mapping[str, Any]]) -> str:
    """As lines of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(path)


PAIR: dict[str, Any] = {"prompt": "prompt", "completion": "completion"}


def problem(
    folder: Path, sizes: Mapping[str, int], *, source: Mapping[str, Any] | None = None, **options: Any
) -> FinetuneLM:
    """Tasks of so many rows each, on the model ``tiny`` if no other is named."""
    data = {task: write_rows(folder / f"{task}.jsonl", rows(count, task)) for task, count in sizes.items()}
    given = {"model": "tiny", "adapt": {"last_layers": 1}, "max_length": 96, **options}
    return FinetuneLM(data=data, source={**PAIR, **(source or {})}, **given)


def training(**changes: Any) -> Training:
    return Training.model_validate({**TRAINING.model_dump(), **changes})


class WithAdapters(FinetuneLM):
    """Over cached layers, with dropout."""

    small: ClassVar[Mapping[str, Any]] = {
        **FinetuneLM.small,
        "adapt": {"lora": {"rank": 2, "layers": 1, "dropout": 0.2}},
    }


class Packed(FinetuneLM):
    """All of the model, several examples in a row."""

    small: ClassVar[Mapping[str, Any]] = {
        **FinetuneLM.small,
        "adapt": "full",
        "cache_frozen": False,
        "packed": True,
        "max_length": 300,
    }


class ShortNumbers(FinetuneLM):
    """In bfloat16, with layers that are computed again."""

    small: ClassVar[Mapping[str, Any]] = {
        **FinetuneLM.small,
        "cache_frozen": False,
        "dtype": "bfloat16",
        "gradient_checkpointing": True,
    }


VARIANTS: tuple[type[FinetuneLM], ...] = (WithAdapters, Packed, ShortNumbers)


def bytes_of_variants(_kind: type) -> dict[str, dict[str, str]]:
    """Name of a class -> what -> hash, for a process of its own."""
    return {kind.__name__: bytes_of(kind) for kind in VARIANTS}
