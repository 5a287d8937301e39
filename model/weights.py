"""Checkpoint folder → the library's modules, loaded and frozen.

The modules hold the weights and the small arithmetic of a layer; what does not scale (cache,
attention, vision batching, positions) is ours. Only safetensors are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.utils import logging as hf_logging

from model.devices import compute_devices, free_on
from model.joined import LayerWeights
from model.placement import place_layers
from model.products import take_over
from model.spec import CheckpointSpec
from model.yarn import Yarn
from schemas.errors import ConfigError

_CLASSES: dict[str, Any] = {
    "qwen3_vl": Qwen3VLForConditionalGeneration,
    "qwen3_vl_moe": Qwen3VLMoeForConditionalGeneration,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class Weights:
    """The loaded modules under names of our own.

    Embedding and vision tower lie on `device`, each decoder layer on its own of `layer_devices`,
    the final norm with the last layer.
    """

    def __init__(
        self, module: nn.Module, layer_devices: tuple[torch.device, ...] | None = None
    ) -> None:
        module.eval().requires_grad_(False)
        take_over(module)
        self.module: Any = module  # the library's types are loose
        inner: Any = module.model
        self.text: Any = inner.language_model
        self.vision: Any = inner.visual
        self.device: torch.device = self.text.embed_tokens.weight.device
        self.dtype: torch.dtype = self.text.embed_tokens.weight.dtype
        self.layers = tuple(LayerWeights(layer) for layer in self.text.layers)
        self.layer_devices = layer_devices or (self.device,) * len(self.text.layers)
        self.last_device: torch.device = self.layer_devices[-1]

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) → (n, vocabulary), float32."""
        head = self.module.lm_head
        scores: Tensor = head(hidden.to(head.weight.device))
        return scores.float()


def load_weights(
    folder: Path, spec: CheckpointSpec, dtype: str, yarn: Yarn | None = None
) -> Weights:
    """Load a checkpoint in `dtype` onto the GPUs, or the CPU where there is none.

    Raises ConfigError where the files do not fit the config, ResourceError where memory is short.
    """
    try:
        with _silence():
            module, report = _CLASSES[spec.model_type].from_pretrained(
                str(folder),
                config=_read_config(folder, yarn),
                dtype=DTYPES[dtype],
                attn_implementation="sdpa",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"the weights in {folder} do not fit its config ({type(error).__name__}); download the "
            "checkpoint again."
        ) from None
    # The library fills a gap with random numbers and a log line.
    if gaps := sorted({*report["missing_keys"], *report["mismatched_keys"]}, key=str):
        raise ConfigError(
            f"the weights in {folder} lack {gaps[0]} and {len(gaps) - 1} more tensors that its "
            "config promises; download the checkpoint again."
        )
    devices = compute_devices()
    if len(devices) == 1:
        return Weights(module.to(devices[0]))
    return Weights(module, spread(module, devices, free_on(devices)))


@contextmanager
def _silence() -> Iterator[None]:
    """What the library would say while it loads is either an error of ours or of no use."""
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)


def _read_config(folder: Path, yarn: Yarn | None) -> Any:
    """The library's config of a checkpoint, with YaRN where the job needs it."""
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if yarn:
        text = config.text_config
        # Only here does the library look: scaling beside `text_config` never reaches the decoder.
        text.rope_parameters = {
            **text.rope_parameters,
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.native_tokens,
        }
        text.max_position_embeddings = yarn.native_tokens
    return config


def spread(
    module: Any, devices: Sequence[torch.device], free: Sequence[int]
) -> tuple[torch.device, ...]:
    """Move a model onto several devices, part by part; returns the device of each decoder layer.

    A tied head stays with the embedding. Raises ResourceError where `free` bytes hold not all.
    """
    inner = module.model
    text, head = inner.language_model, module.lm_head
    is_tied = head.weight is text.embed_tokens.weight
    first = [inner.visual, text.embed_tokens, text.rotary_emb]
    last = [text.norm] if is_tied else [text.norm, head]
    sizes = [_num_bytes([layer]) for layer in text.layers]
    places = place_layers(sizes, _num_bytes(first), _num_bytes(last), free)
    layer_devices = tuple(devices[place] for place in places)
    for part in first:
        part.to(devices[0])
    for layer, device in zip(text.layers, layer_devices, strict=True):
        layer.to(device)
    for part in last:
        part.to(layer_devices[-1])
    if is_tied:
        head.weight = text.embed_tokens.weight
    return layer_devices


def _num_bytes(modules: Sequence[nn.Module]) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def random_weights(config: dict[str, Any], dtype: str, seed: int = 0) -> Weights:
    """A model of the given config with random weights: true shapes without a download."""
    torch.manual_seed(seed)
    kind = config["model_type"]
    built = AutoConfig.for_model(**config)
    return Weights(_CLASSES[kind](built).to(DTYPES[dtype]))
