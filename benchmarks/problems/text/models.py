"""Causal language models from transformers: a small Llama, or any pretrained one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.problems.text.tokenizer import quiet
from benchmarks.seeds import derive


def small(seed: int, *, vocab: int, length: int, hidden: int, intermediate: int, layers: int, heads: int) -> nn.Module:
    """A Llama with the initial parameters of a seed. Input and output embeddings are tied, there is no dropout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": length,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "use_cache": False,
        "attn_implementation": "sdpa",
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "code_lm", "parameters"))
        model: nn.Module = LlamaForCausalLM(LlamaConfig(**settings))
    return model


def pretrained(name: str, revision: str | None, seed: int, length: int) -> nn.Module:
    """A model directory or hub id in float32, its dropout switched off. The seed fills parameters a checkpoint lacks."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "code_lm", "parameters"))
        config: Any = AutoConfig.from_pretrained(name, revision=revision)
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and longest < length:
            raise ValueError(f"code_lm: expected sequence_length to be at most {longest} for {name!r}, found {length}")
        without_dropout(config)
        model: nn.Module = AutoModelForCausalLM.from_pretrained(name, revision=revision, config=config, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def without_dropout(config: Any) -> None:
    """Set every probability of dropout in a model's configuration to 0."""
    for key, value in vars(config).items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)


def last_linear(model: nn.Module) -> nn.Module:
    """The last trained linear layer before the output embedding: in Llama and GPT-2 the MLP's output projection.

    Raises ValueError where the model has none.
    """
    from transformers.pytorch_utils import Conv1D

    ends: set[int] = set()
    for get in ("get_output_embeddings", "get_input_embeddings"):
        layer = getattr(model, get)() if hasattr(model, get) else None
        if layer is not None:
            ends |= {id(parameter) for parameter in layer.parameters()}
    chosen: nn.Module | None = None
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in ends and module.weight.requires_grad:
            chosen = module
    if chosen is None:
        found = type(model).__name__
        raise ValueError(f"code_lm: expected a trained linear layer before the output embedding, found none in {found}")
    return chosen
