"""Sizes of nano and the ids of its special tokens: the one place that decides them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

RUNS = Path(__file__).with_name("runs")
CHECKPOINT = Path(__file__).parents[2] / "model" / "nano"
PUBLISHED = "published"
"""Stands for a run where training goes on from the checkpoint in use."""

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ID = {text: number for number, text in enumerate(SPECIALS)}
VOCAB = 704
CONTEXT = 1_048_576
"""A million tokens; positions grow slower, see `FAR`."""
FAR = 160_000
"""Positions that a million tokens of video reach, with room: a pair of 12 × 12 takes 21."""
ROPE_THETA = 1e13
"""So slow that 37 of a head's 64 numbers turn less than half a radian over `FAR`: what is matched
by content must not depend on where it stands. The faster ones find what is a few tokens back."""
HIDDEN, LAYERS, HEADS, HEAD_DIM, FFN = 128, 3, 4, 64, 384
"""Of the decoder; it gets a fourth layer when spans are learnt."""
VISION_HIDDEN, VISION_DEPTH, VISION_HEADS, VISION_FFN = 128, 4, 4, 384
IDLE_DEPTH = 3
"""Blocks of the tower beside a decoder that learns, which is not run: what a seed makes of the
decoder depends on it."""
DEEPSTACK = (0, 1)
TOKEN_PX = 32


def slow_numbers(positions: int, most_rad: float) -> list[int]:
    """Of a head, those that turn by less than `most_rad` over so many positions."""
    half = HEAD_DIM // 2
    turns = [ROPE_THETA ** -(number % half / half) * positions for number in range(HEAD_DIM)]
    return [number for number, turn in enumerate(turns) if turn < most_rad]


def config(layers: int = LAYERS, depth: int = IDLE_DEPTH) -> dict[str, Any]:
    """config.json of the checkpoint, as it is trained: master weights are in float32."""
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": ID["<|image_pad|>"],
        "video_token_id": ID["<|video_pad|>"],
        "vision_start_token_id": ID["<|vision_start|>"],
        "vision_end_token_id": ID["<|vision_end|>"],
        "tie_word_embeddings": True,
        "dtype": "float32",
        "text_config": {
            "model_type": "qwen3_vl_text",
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.06,
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": ID["<|endoftext|>"],
            "pad_token_id": ID["<|endoftext|>"],
            "eos_token_id": ID["<|im_end|>"],
            "dtype": "float32",
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "mrope_interleaved": True,
                "mrope_section": [12, 10, 10],
            },
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": depth,
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_FFN,
            "num_heads": VISION_HEADS,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": list(DEEPSTACK),
            "initializer_range": 0.04,
            "dtype": "float32",
        },
    }


def published(layers: int, depth: int) -> dict[str, Any]:
    """config() with what weights are published in."""
    settings = config(layers, depth)
    for section in (settings, settings["text_config"], settings["vision_config"]):
        section["dtype"] = "bfloat16"
    return settings


def count_parts(weights: dict[str, Tensor], name: str) -> int:
    """How many `layers` a decoder or `blocks` a tower has."""
    return 1 + max(int(own.split(".")[1]) for own in weights if own.startswith(f"{name}."))


def published_part(prefix: str) -> dict[str, Tensor]:
    """Weights of the checkpoint in use whose names begin with `prefix`, without it."""
    weights = load_file(CHECKPOINT / "model.safetensors")
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
