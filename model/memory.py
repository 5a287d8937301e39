"""CheckpointSpec → bytes, as integers, before anything is allocated. Imports no torch."""

from __future__ import annotations

from model.spec import CheckpointSpec

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
ATTENTION_ROWS = 512
"""Query tokens that are attended at once."""
ATTENTION_KEYS = 1024
"""Keys of one block of the cache."""
VISION_PATCHES = 16384
"""Patches that go through the vision tower at once."""
_RUNTIME_BYTES = 420 * 1024**2
"""What torch and transformers take once they are imported and have run; measured."""


def text_parameters(spec: CheckpointSpec) -> int:
    """Parameters of decoder and embeddings."""
    t = spec.text
    attention = t.hidden * t.head_dim * (2 * t.heads + 2 * t.kv_heads) + 2 * t.head_dim
    dense = 3 * t.hidden * t.ffn
    sparse = t.experts * (3 * t.hidden * t.expert_ffn + t.hidden)
    layer = attention + (sparse if t.experts else dense) + 2 * t.hidden
    return t.layers * layer + t.hidden + t.vocab * t.hidden * (1 if t.tied else 2)


def vision_parameters(spec: CheckpointSpec, position_embeddings: int = 2304) -> int:
    """Parameters of the vision tower with its mergers."""
    v = spec.vision
    block = 4 * v.hidden * v.hidden + 2 * v.hidden * v.ffn + 9 * v.hidden + v.ffn
    patch = 3 * v.frames_per_patch * v.patch_px**2 * v.hidden
    wide = v.hidden * v.merge**2
    merger = wide * wide + wide * v.out_hidden + 4 * wide
    return (
        v.depth * block + patch + position_embeddings * v.hidden + merger * (1 + len(v.deepstack))
    )


def weight_bytes(spec: CheckpointSpec, dtype: str) -> int:
    """Bytes of all weights once loaded."""
    return (text_parameters(spec) + vision_parameters(spec)) * DTYPE_BYTES[dtype]


def kv_bytes_per_token(spec: CheckpointSpec, kv_dtype: str) -> int:
    """K and V of one token in all layers."""
    t = spec.text
    return 2 * t.layers * t.kv_heads * t.head_dim * DTYPE_BYTES[kv_dtype]


def chunk_bytes_per_token(spec: CheckpointSpec, dtype: str) -> int:
    """Peak activations of one prefill chunk, per token: the widest moment of a decoder layer, the
    vision features of all levels, and the pixels they came from."""
    t, v, size = spec.text, spec.vision, DTYPE_BYTES[dtype]
    widest = max(3 * t.ffn, 3 * t.expert_ffn * t.experts_used, 4 * t.heads * t.head_dim)
    layer = (6 * t.hidden + widest) * size
    features = (1 + len(v.deepstack)) * v.out_hidden * size
    patch_values = 3 * v.frames_per_patch * v.patch_px**2
    pixels = v.merge**2 * patch_values * (4 + size)
    return layer + features + pixels


def fixed_bytes(spec: CheckpointSpec, dtype: str) -> int:
    """Bytes that no token count changes: attention tiles, vision activations, logits, runtime."""
    t, v, size = spec.text, spec.vision, DTYPE_BYTES[dtype]
    scores = t.heads * ATTENTION_ROWS * ATTENTION_KEYS * (4 + 4 + size)
    vision = VISION_PATCHES * (6 * v.hidden + 2 * v.ffn) * size
    return scores + vision + 8 * t.vocab + _RUNTIME_BYTES
