"""What of a pretrained model is trained, and the model that the problem trains: its parts, from any layer on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contract import Batch
from benchmarks.problems.finetune import OWNER
from benchmarks.problems.finetune.options import Adapt, LoRA
from benchmarks.problems.text import models
from benchmarks.seeds import derive

TOLERANCE = 0.02
"""Of the check that the parts make the whole, as a share of the largest logit: bfloat16 has two to three digits."""


def adapt(causal: nn.Module, wanted: Adapt, seed: int) -> None:
    """Freeze what is not to be trained, and add adapters with the initial parameters of a seed. Raises ValueError."""
    _, layers = layers_of(causal)
    last = wanted.last_layers if wanted.lora is None else wanted.lora.layers
    if last is not None and last > len(layers):
        raise ValueError(f"{OWNER}: expected adapt to name at most the {len(layers)} layers of the model, found {last}")
    if not wanted.full:
        causal.requires_grad_(False)
    if wanted.lora is not None:
        _add_adapters(causal, wanted.lora, seed)
    elif wanted.last_layers is not None:
        for module in (*layers[-wanted.last_layers :], *_after_layers(causal)):
            module.requires_grad_(True)
    for parameter in causal.parameters():
        if parameter.requires_grad:
            # Steps of a usual size would be lost in the rounding of a shorter type.
            parameter.data = parameter.data.float()


def _add_adapters(causal: nn.Module, lora: LoRA, seed: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(
            f"{OWNER}: expected the package peft for adapt: {{lora: ...}}, found none: pip install 'mtl-weighting[finetune]'"
        ) from error
    targets = _targets(causal, lora)
    settings: dict[str, Any] = {
        "r": lora.rank,
        "lora_alpha": 2 * lora.rank if lora.alpha is None else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(targets),
        "fan_in_fan_out": not isinstance(next(iter(targets.values())), nn.Linear),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, OWNER, "adapters"))
        inject_adapter_in_model(LoraConfig(**settings), causal)


def _targets(causal: nn.Module, lora: LoRA) -> dict[str, nn.Module]:
    """Names of the linear layers that get an adapter."""
    from transformers.pytorch_utils import Conv1D

    name, layers = layers_of(causal)
    prefix = f"{causal.base_model_prefix}.{name}."
    first = 0 if lora.layers is None else len(layers) - lora.layers
    found: dict[str, nn.Module] = {
        path: module
        for path, module in causal.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and path.startswith(prefix)
        and int(path[len(prefix) :].partition(".")[0]) >= first
    }
    if lora.target_modules == "all-linear":
        return found
    chosen = {path: module for path, module in found.items() if path.rpartition(".")[2] in lora.target_modules}
    known = dict.fromkeys(path.rpartition(".")[2] for path in found)
    unknown = [name for name in lora.target_modules if name not in known]
    if unknown or not chosen:
        raise ValueError(f"{OWNER}: expected target_modules among {', '.join(known)}, found {', '.join(unknown) or 'none'}")
    return chosen


def decoder_of(causal: nn.Module) -> nn.Module:
    """The model below its output embedding."""
    found: nn.Module = getattr(causal, str(causal.base_model_prefix))
    return found


def layers_of(causal: nn.Module) -> tuple[str, nn.ModuleList]:
    """The layers of the decoder and their name there. Raises ValueError where there is no such list."""
    config: Any = causal.config
    for name, child in decoder_of(causal).named_children():
        if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:
            return name, child
    raise ValueError(f"{OWNER}: expected a decoder with a list of layers, found {type(causal).__name__}")


def checkpoint_layers(causal: nn.Module) -> None:
    """Compute layers again in the backward pass instead of keeping what they made."""
    how: Any = {"use_reentrant": False}
    # Newer versions of transformers have another name for it.
    newer: Any = getattr(causal, "activation_checkpointing_enable", None)
    older: Any = getattr(causal, "gradient_checkpointing_enable", None)
    (newer or older)(how)


def _after_layers(causal: nn.Module) -> Iterator[nn.Module]:
    name, _ = layers_of(causal)
    children = dict(decoder_of(causal).named_children())
    later = list(children)[list(children).index(name) + 1 :]
    yield from (children[each] for each in later)


class Adapted(nn.Module):
    """A causal language model as the problem trains it.

    causal    the adapted model
    compute   the type of its arithmetic: where it is shorter than float32, by autocast
    low       how many layers, from the first on, batches may bring with them as ``hidden``
    """

    def __init__(self, causal: nn.Module, compute: torch.dtype, low: int) -> None:
        super().__init__()
        self.causal, self.compute, self.low = causal, compute, low
        self._name, layers = layers_of(causal)
        # Not registered: they are the same modules under other names.
        self._upper = (layers[low:],)

    @property
    def decoder(self) -> nn.Module:
        """The model below its output embedding."""
        return decoder_of(self.causal)

    @property
    def head(self) -> nn.Module:
        """The output embedding."""
        found: nn.Module = self.causal.get_output_embeddings()  # type: ignore[operator]
        return found

    def forward(self, batch: Batch) -> Tensor:
        """``(R, T, H)`` what the output embedding reads, from ``tokens`` or from what layers below made of them."""
        more = self._rows(batch) if "segment" in batch else {}
        with self.arithmetic(batch["tokens"].device):
            if "hidden" not in batch:
                return self._last(input_ids=batch["tokens"], **more)
            with self._entered():
                return self._last(inputs_embeds=batch["hidden"], **more)

    @torch.no_grad()
    def below(self, tokens: Tensor) -> Tensor:
        """``(R, T, H)`` what comes out of the first ``low`` layers."""
        _, layers = layers_of(self.causal)
        hook = layers[self.low].register_forward_pre_hook(_stop, with_kwargs=True)
        try:
            with self.arithmetic(tokens.device):
                self._last(input_ids=tokens)
        except _ReachedError as reached:
            return reached.hidden
        finally:
            hook.remove()
        raise RuntimeError(f"{OWNER}: expected the layers of the model to be used")

    def arithmetic(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """In which type numbers are multiplied."""
        return torch.autocast(device.type, self.compute, enabled=self.compute.itemsize < torch.float32.itemsize)

    def _last(self, **given: Any) -> Tensor:
        found: Tensor = self.decoder(**given, use_cache=False).last_hidden_state
        return found

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        whole = getattr(self.decoder, self._name)
        setattr(self.decoder, self._name, self._upper[0])
        try:
            yield
        finally:
            setattr(self.decoder, self._name, whole)

    def _rows(self, batch: Batch) -> dict[str, Tensor]:
        """Places and attention of rows in which examples follow one another: none sees another."""
        segment = batch["segment"]
        length = segment.shape[1]
        begins = torch.ones_like(segment, dtype=torch.bool)
        begins[:, 1:] = segment[:, 1:] != segment[:, :-1]
        places = torch.arange(length, device=segment.device).expand_as(segment)
        starts = torch.where(begins, places, 0).cummax(1).values
        seen = (segment[:, :, None] == segment[:, None, :]) & (places[:, :, None] >= places[:, None, :])
        mask = seen.unsqueeze(1)
        config: Any = self.causal.config
        if config._attn_implementation == "eager":
            lowest = torch.finfo(self.compute).min
            mask = torch.zeros(mask.shape, device=mask.device, dtype=self.compute).masked_fill(~mask, lowest)
        return {"position_ids": places - starts, "attention_mask": mask}


class _ReachedError(Exception):
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _stop(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    raise _ReachedError(given[0] if given else named["hidden_states"])


def frozen_layers(causal: nn.Module, wanted: Adapt) -> int:
    """How many layers, from the first on, have nothing to train, with all that lies below them. 0: none."""
    last = wanted.last_layers if wanted.lora is None else wanted.lora.layers
    return 0 if last is None else max(0, len(layers_of(causal)[1]) - last)


@torch.no_grad()
def check_parts(model: Adapted) -> None:
    """That decoder and output embedding, entered above the frozen layers, make the whole. Raises ValueError."""
    config: Any = model.causal.config
    device = next(model.parameters()).device
    tokens = torch.arange(8, device=device).unsqueeze(0) % config.vocab_size
    model.eval()
    try:
        with model.arithmetic(device):
            whole = model.causal(input_ids=tokens, use_cache=False).logits.float()
            batch = {"tokens": tokens}
            parts = [model.head(model(batch)).float()]
            if model.low:
                parts.append(model.head(model({**batch, "hidden": model.below(tokens)})).float())
    finally:
        model.train()
    for place, found in enumerate(parts):
        if float((found - whole).abs().max()) > TOLERANCE * float(whole.abs().max()):
            what = "whose logits are its output embedding of the last layer"
            what = "whose layers can be entered in the middle (cache_frozen: false works with any)" if place else what
            raise ValueError(f"{OWNER}: expected a model {what}, found {type(model.causal).__name__}")


def shared_layer(model: Adapted) -> nn.Module:
    """The last adapted layer, else the last trained linear layer before the output embedding."""
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    return adapted[-1] if adapted else models.last_linear(model.causal)
