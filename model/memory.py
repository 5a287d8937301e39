"""CheckpointSpec → bytes, as integers, before anything is allocated. Imports no torch.

Promises the peak of a process that reads one video, from the interpreter up; a test holds it
against what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from model.spec import CheckpointSpec
from model.weight_files import WeightFile
from schemas.ports import KV_BLOCK_TOKENS

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
KV_DTYPES = (*DTYPE_BYTES, "int8")
ATTENTION_ROWS = 512
"""Query tokens that are attended at once."""
ATTENTION_KEYS = 1024
"""Keys of one block of the cache."""
VISION_PATCHES = 4096
"""Patches that go through the vision tower at once."""
RUNTIME_BYTES = 410 * 1024**2
"""What a job's libraries take once they are imported and have run: torch and transformers, the
decoder, Parquet and the cluster; measured on Linux."""


def count_parameters(weights: Sequence[WeightFile], spec: CheckpointSpec) -> int:
    """Numbers that are loaded, from the shapes of the stored tensors."""
    shapes = {name: shape for file in weights for name, shape in file.shapes.items()}
    if spec.text.tied:
        shapes.pop("lm_head.weight", None)
    return sum(prod(shape) for shape in shapes.values())


def kv_bytes_per_token(spec: CheckpointSpec, kv_dtype: str) -> int:
    """K and V of one token in all layers; a share of a block's scales is rounded up to a byte.

    int8 keeps one bfloat16 scale per channel of each block of keys, and one per token of values.
    """
    t = spec.text
    heads = t.layers * t.kv_heads
    if kv_dtype != "int8":
        return 2 * heads * t.head_dim * DTYPE_BYTES[kv_dtype]
    keys = (KV_BLOCK_TOKENS + 2) * t.head_dim
    values = KV_BLOCK_TOKENS * (t.head_dim + 2)
    return -(-heads * (keys + values) // KV_BLOCK_TOKENS)


def kv_tail_bytes(spec: CheckpointSpec, kv_dtype: str) -> int:
    """The tail of one cache: an int8 one keeps the block that is not full yet in bfloat16."""
    if kv_dtype != "int8":
        return 0
    return KV_BLOCK_TOKENS * kv_bytes_per_token(spec, "bfloat16")


def chunk_bytes_per_token(spec: CheckpointSpec, dtype: str) -> int:
    """Peak bytes per token of one chunk: its frames, their features at all levels, and the widest
    moment of a decoder layer."""
    t, v, size = spec.text, spec.vision, DTYPE_BYTES[dtype]
    frames = 3 * v.frames_per_patch * spec.token_px**2
    features = (1 + len(v.deepstack)) * v.out_hidden * size
    wide = max(3 * t.ffn, t.experts_used * (3 * t.expert_ffn + 2 * t.hidden) if t.experts else 0)
    layer = max(
        (2 * t.hidden + (5 * t.heads + 3 * t.kv_heads) * t.head_dim) * size,
        (3 * t.hidden + wide) * size,
        2 * t.hidden * (size + 4),
    )
    return frames + features + layer


def fixed_bytes(spec: CheckpointSpec, dtype: str) -> int:
    """Bytes that no token count changes: libraries, logits, and the larger of a group of patches in
    the vision tower and a tile of attention scores."""
    t, v, size = spec.text, spec.vision, DTYPE_BYTES[dtype]
    values = 3 * v.frames_per_patch * v.patch_px**2
    patch = max(values * (1 + 8 + size), v.hidden * (8 * size + 24), 2 * (v.hidden + v.ffn) * size)
    # Rounded scores, their float32 copy, and the weights in the layer's dtype.
    tile = t.heads * ATTENTION_ROWS * ATTENTION_KEYS * (4 if size == 4 else 4 + 2 * size)
    return RUNTIME_BYTES + 3 * 4 * t.vocab + max(VISION_PATCHES * patch, tile)
