"""Checkpoint folder → the library's modules, loaded and frozen.

The modules hold the weights and the small arithmetic of a layer; what does not scale (cache,
attention, vision batching, positions) is ours. Only safetensors are read.
"""

from __future__ import annotations

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

from model.spec import CheckpointSpec
from schemas.errors import ConfigError

_CLASSES: dict[str, Any] = {
    "qwen3_vl": Qwen3VLForConditionalGeneration,
    "qwen3_vl_moe": Qwen3VLMoeForConditionalGeneration,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class Weights:
    """The loaded modules under names of our own."""

    def __init__(self, module: nn.Module) -> None:
        module.eval().requires_grad_(False)
        self.module: Any = module  # the library's types are loose
        inner: Any = module.model
        self.text: Any = inner.language_model
        self.vision: Any = inner.visual
        self.device: torch.device = self.text.embed_tokens.weight.device
        self.dtype: torch.dtype = self.text.embed_tokens.weight.dtype
        self.layer_devices: tuple[torch.device, ...] = tuple(
            next(layer.parameters()).device for layer in self.text.layers
        )
        self.last_device: torch.device = self.text.norm.weight.device

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) → (n, vocabulary), float32."""
        scores: Tensor = self.module.lm_head(hidden)
        return scores.float()


def load_weights(folder: Path, spec: CheckpointSpec, dtype: str) -> Weights:
    """Load a checkpoint in `dtype`, onto the first GPU where there is one. Raises ConfigError."""
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, report = _CLASSES[spec.model_type].from_pretrained(
            str(folder),
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
    return Weights(module.to("cuda" if torch.cuda.is_available() else "cpu"))


def random_weights(config: dict[str, Any], dtype: str, seed: int = 0) -> Weights:
    """A model of the given config with random weights: true shapes without a download."""
    torch.manual_seed(seed)
    kind = config["model_type"]
    built = AutoConfig.for_model(**config)
    return Weights(_CLASSES[kind](built).to(DTYPES[dtype]))
