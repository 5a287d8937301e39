"""config.json → CheckpointSpec: what a checkpoint is, read without loading it.

Promises every size, token id and layer choice from the checkpoint's own config; the library's class
defaults are no checkpoint's values and are never used. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe")


@dataclass(frozen=True, slots=True)
class TextSpec:
    """The decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_positions: int
    """Longest sequence of the config as it is written, YaRN included where it has that."""
    tied: bool
    experts: int
    """Experts per layer; 0 for a dense checkpoint."""
    experts_used: int
    expert_ffn: int
    rope_type: str
    rope_factor: float | None
    """How far the config itself stretches the positions; None where it does not."""


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The vision tower."""

    depth: int
    hidden: int
    ffn: int
    heads: int
    patch_px: int
    frames_per_patch: int
    merge: int
    out_hidden: int
    deepstack: tuple[int, ...]
    """Vision layers whose features join the first decoder layers, one level each."""


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """A whole checkpoint."""

    model_type: str
    text: TextSpec
    vision: VisionSpec
    image_token_id: int
    video_token_id: int
    vision_start_id: int
    vision_end_id: int
    dtype: str
    """The dtype its weights are stored in: float32 or bfloat16."""

    @property
    def token_px(self) -> int:
        return self.vision.patch_px * self.vision.merge


def read_spec(folder: Path) -> CheckpointSpec:
    """Read a checkpoint folder's config.json. Raises ConfigError where it is not a Qwen3-VL."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ConfigError(
            f"{folder} is no checkpoint: it has no readable config.json; name a folder that was "
            "downloaded whole."
        )
    if config.get("model_type") not in MODEL_TYPES:
        raise ConfigError(
            f"{folder} holds a {config.get('model_type', 'nameless')!r} checkpoint; accepted are "
            f"{' and '.join(MODEL_TYPES)}. Name a Qwen3-VL checkpoint."
        )
    try:
        spec = _spec(config)
    except KeyError as error:
        raise ConfigError(
            f"{path} lacks {error.args[0]!r}; the checkpoint is incomplete. Download it again."
        ) from None
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is malformed ({error}). Download the checkpoint again."
        ) from None
    if spec.vision.frames_per_patch != 2:
        raise ConfigError(
            f"{path} joins {spec.vision.frames_per_patch} frames per patch; 2 are accepted. Name a "
            "Qwen3-VL checkpoint."
        )
    return spec


def _spec(config: dict[str, Any]) -> CheckpointSpec:
    text, vision = config["text_config"], config["vision_config"]
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    return CheckpointSpec(
        model_type=config["model_type"],
        text=TextSpec(
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            ffn=text["intermediate_size"],
            vocab=text["vocab_size"],
            max_positions=text["max_position_embeddings"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            experts=text.get("num_experts", 0),
            experts_used=text.get("num_experts_per_tok", 0),
            expert_ffn=text.get("moe_intermediate_size", 0),
            rope_type=rope_type,
            rope_factor=None if rope_type == "default" else rope.get("factor"),
        ),
        vision=VisionSpec(
            depth=vision["depth"],
            hidden=vision["hidden_size"],
            ffn=vision["intermediate_size"],
            heads=vision["num_heads"],
            patch_px=vision["patch_size"],
            frames_per_patch=vision["temporal_patch_size"],
            merge=vision["spatial_merge_size"],
            out_hidden=vision["out_hidden_size"],
            deepstack=tuple(vision["deepstack_visual_indexes"]),
        ),
        image_token_id=config["image_token_id"],
        video_token_id=config["video_token_id"],
        vision_start_id=config["vision_start_token_id"],
        vision_end_id=config["vision_end_token_id"],
        dtype=str(
            config.get("dtype") or text.get("dtype") or config.get("torch_dtype", "bfloat16")
        ),
    )
