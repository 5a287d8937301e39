"""CheckpointSpec → bytes, as integers, before anything is allocated. Imports no torch.

Promises the peak of a process that reads one video, from the interpreter up; a test holds it
against what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from model.spec import CheckpointSpec, VisionSpec
from model.weight_files import WeightFile
from schemas.ports import KV_BLOCK_TOKENS

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
KV_DTYPES = (*DTYPE_BYTES, "int8")
ATTENTION_ROWS = 512
"""Query tokens that are attended at once."""
ATTENTION_KEYS = 1024
"""Keys of one block of the cache."""
TEMPORARY_BYTES = 24 * 1024**2
"""Widest temporary of a layer. Above 32 MiB the C library returns memory to the system at once, and
getting it again costs a page fault per 4 KiB: a fifth of a prefill at the widths of 2B."""
MAX_READS = 64
"""Positions whose logits are read in one round."""
RUNTIME_BYTES = 500 * 1024**2
"""What a job's libraries take once they are imported and have run: torch and transformers, the
decoder, Parquet and the cluster; measured on Linux."""
KERNEL_BYTES = 50 * 1024**2
"""What the fused kernel's compiler takes once it has run."""


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


def slice_tokens(spec: CheckpointSpec, dtype: str) -> int:
    """Tokens that go through the decoder's layers at once; a longer chunk is taken in slices."""
    t = spec.text
    widest = max(t.ffn, t.experts_used * t.expert_ffn, t.heads * t.head_dim)
    return _fitting(widest * DTYPE_BYTES[dtype], 256, 8192)


def vision_patches(vision: VisionSpec, item_bytes: int) -> int:
    """Patches that go through the vision tower at once, or one patch pair where that is larger."""
    return _fitting(max(vision.ffn, 3 * vision.hidden) * item_bytes, 256, 4096)


def _fitting(bytes_each: int, least: int, most: int) -> int:
    return min(most, max(least, TEMPORARY_BYTES // bytes_each // least * least))


def chunk_bytes_per_token(spec: CheckpointSpec, dtype: str) -> int:
    """Bytes per token of one chunk: its frames and their features at all levels."""
    v = spec.vision
    frames = 3 * v.frames_per_patch * spec.token_px**2
    return frames + (1 + len(v.deepstack)) * v.out_hidden * DTYPE_BYTES[dtype]


def fixed_bytes(spec: CheckpointSpec, dtype: str) -> int:
    """Bytes that no token count changes: libraries, logits, a group of patches in the vision tower
    and a slice in a decoder layer. The last two are never at once, but the heap keeps both."""
    # Logits, masked ones and their softmax in float32, and the mask.
    logits = MAX_READS * spec.text.vocab * (3 * 4 + 1)
    libraries = RUNTIME_BYTES + (KERNEL_BYTES if dtype == "bfloat16" else 0)
    return libraries + logits + _vision_bytes(spec, dtype) + _layer_bytes(spec, dtype)


def _vision_bytes(spec: CheckpointSpec, dtype: str) -> int:
    """The widest moment of a group of patches: cut from frames, in attention, or in the MLP."""
    v, size = spec.vision, DTYPE_BYTES[dtype]
    values = 3 * v.frames_per_patch * v.patch_px**2
    patch = max(values * (2 + size), v.hidden * (8 * size + 24), 2 * (v.hidden + v.ffn) * size)
    return vision_patches(v, size) * patch


def _layer_bytes(spec: CheckpointSpec, dtype: str) -> int:
    """The widest moment of a slice: in attention (with sums in float32), in the MLP, in a norm; and
    a tile of scores, or of unfinished sums, where the fused kernel is not taken."""
    t, size = spec.text, DTYPE_BYTES[dtype]
    wide = max(3 * t.ffn, t.experts_used * (3 * t.expert_ffn + 2 * t.hidden) if t.experts else 0)
    heads = t.heads * t.head_dim
    token = max(
        (2 * t.hidden + 5 * heads + 3 * t.kv_heads * t.head_dim) * size + 4 * heads,
        (3 * t.hidden + wide) * size,
        2 * t.hidden * (size + 4),
    )
    tile = 2 * 4 * t.kv_heads * ATTENTION_ROWS * ATTENTION_KEYS
    return slice_tokens(spec, dtype) * token + tile
