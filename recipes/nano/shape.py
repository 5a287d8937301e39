"""Sizes of nano and the ids of its special tokens: the one place that decides them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RUNS = Path(__file__).with_name("runs")
CHECKPOINT = Path(__file__).parents[2] / "model" / "nano"

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
CONTEXT = 8192
HIDDEN, LAYERS, HEADS, HEAD_DIM, FFN = 128, 5, 4, 64, 384
VISION_HIDDEN, VISION_DEPTH, VISION_HEADS, VISION_FFN = 128, 3, 4, 384
DEEPSTACK = (0, 1)
TOKEN_PX = 32


def config() -> dict[str, Any]:
    """config.json of the checkpoint."""
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
            "num_hidden_layers": LAYERS,
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
                "rope_theta": 1_000_000_000.0,
                "mrope_interleaved": True,
                "mrope_section": [12, 10, 10],
            },
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": VISION_DEPTH,
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
