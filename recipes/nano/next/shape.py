"""Sizes of the next nano: the one place that decides them."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from recipes.nano import shape as first

RUNS = first.RUNS / "next"
CHECKPOINT = first.CHECKPOINT.with_name("nano_read")
ID = first.ID
HIDDEN, LAYERS, HEADS, HEAD_DIM = first.HIDDEN, 3, 4, 64
CONTEXT = 1_048_576
"""A million tokens; positions grow slower, see `FAR`."""
FAR = 160_000
"""Positions that a million tokens of video reach, with room: a pair of 12 × 12 takes 21."""
ROPE_THETA = 1e13
"""So slow that 37 of a head's 64 numbers turn less than half a radian over `FAR`: what is matched
by content must not depend on where it stands. The faster ones find what is a few tokens back."""


PUBLISHED = "published"
"""Stands for a run where training goes on from the checkpoint in use."""


def slow_numbers(positions: int, most_rad: float) -> list[int]:
    """Of a head, those that turn by less than `most_rad` over so many positions."""
    half = HEAD_DIM // 2
    turns = [ROPE_THETA ** -(number % half / half) * positions for number in range(HEAD_DIM)]
    return [number for number, turn in enumerate(turns) if turn < most_rad]


def config(layers: int = LAYERS) -> dict[str, Any]:
    """config.json of the checkpoint, as it is trained."""
    settings = first.config()
    settings["text_config"] |= {
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": CONTEXT,
    }
    settings["text_config"]["rope_parameters"]["rope_theta"] = ROPE_THETA
    return settings


def published(layers: int = LAYERS) -> dict[str, Any]:
    """config() with what weights are published in: master weights stay in float32."""
    settings = config(layers)
    for section in (settings, settings["text_config"], settings["vision_config"]):
        section["dtype"] = "bfloat16"
    return settings


def published_part(prefix: str) -> dict[str, Tensor]:
    """Weights of the checkpoint in use whose names begin with `prefix`, without it."""
    weights = load_file(CHECKPOINT / "model.safetensors")
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
