"""Numbers → int8 codes and scales, block by block of 64 tokens.

Keys share a scale per dimension within a block, values one per token (`model.segments`). Scales are
bfloat16 and codes are made with the rounded scale, so rounding it costs no accuracy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from schemas.ports import KV_BLOCK_TOKENS

_LARGEST = 127


def quantise_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """(kv heads, whole blocks of tokens, dim) → int8 codes of that shape, (kv heads, blocks, dim)
    scales."""
    heads, count, dim = keys.shape
    blocks = keys.reshape(heads, count // KV_BLOCK_TOKENS, KV_BLOCK_TOKENS, dim).float()
    scales = _scales(blocks.abs().amax(2))
    return _codes(blocks, scales[:, :, None]).flatten(1, 2), scales


def quantise_values(values: Tensor) -> tuple[Tensor, Tensor]:
    """(kv heads, tokens, dim) → int8 codes of that shape, (kv heads, tokens) scales."""
    scales = _scales(values.float().abs().amax(2))
    return _codes(values.float(), scales[..., None]), scales


def _scales(largest: Tensor) -> Tensor:
    return (largest / _LARGEST).clamp_min(1e-30).to(torch.bfloat16)


def _codes(numbers: Tensor, scales: Tensor) -> Tensor:
    # A scale that was rounded down would need 128 at the far end.
    return (numbers / scales.float()).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8)
