"""The checkpoint's own modules, run the way training needs them: pairs of one size as one batch.
The production engine gives the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from model.products import has_bfloat16_products


def new_model(seed: int, settings: dict[str, Any]) -> Qwen3VLForConditionalGeneration:
    """Freshly initialised weights."""
    torch.manual_seed(seed)
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(**settings))


def in_bfloat16(device: torch.device) -> torch.autocast:
    """Within it, products of matrices are in bfloat16 where the machine has such products: half the
    time of float32 there, and many times as long where a CPU has to act them out. Weights and
    sums stay in float32."""
    has_products = device.type != "cpu" or has_bfloat16_products()
    return torch.autocast(device.type, torch.bfloat16, enabled=has_products)


def patchify(pairs: npt.NDArray[np.uint8] | Tensor) -> Tensor:
    """(pairs, 2, H, W, 3) uint8 → (pairs, patches, 1536) float in merge-block order."""
    n, _, height, width, _ = pairs.shape
    rows, cols = height // 32, width // 32
    x = torch.as_tensor(pairs).permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0
    x = x.reshape(n, 2, 3, rows, 2, 16, cols, 2, 16)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(n, rows * cols * 4, 1536)


def encode_pairs(
    model: Qwen3VLForConditionalGeneration,
    pixels: Tensor,
    grid: tuple[int, int],
    watched: list[Tensor] | None = None,
) -> Tensor:
    """(pairs, patches, 1536) → features, (pairs, tokens, hidden); DeepStack levels are silent.

    What patches hold after each block, (pairs, patches, width), is left in `watched`.
    """
    visual = model.model.visual
    thw = torch.tensor([[1, grid[0] * 2, grid[1] * 2]], device=pixels.device)
    indices, weights = get_vision_interpolation_indices_and_weights(
        thw,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=2,
        kwargs={},
    )
    embed = visual.patch_embed.proj
    x = F.linear(pixels, embed.weight.flatten(1), embed.bias)
    x = x + (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    rope = visual.rotary_pos_emb(x, get_vision_position_ids(thw, 2, kwargs={}))
    for block in visual.blocks:
        x = x + _vision_attention(block.attn, block.norm1(x), rope)
        x = x + block.mlp(block.norm2(x))
        if watched is not None:
            watched.append(x)
    features: Tensor = visual.merger(x).reshape(len(x), -1, visual.merger.linear_fc2.out_features)
    return features


def _vision_attention(attention: torch.nn.Module, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    n, length, width = x.shape
    qkv = attention.qkv(x).reshape(n, length, 3, attention.num_heads, -1)  # type: ignore[operator]
    q, k, v = qkv.unbind(2)
    q, k = apply_rotary_pos_emb_vision(q, k, *rope)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    projected: Tensor = attention.proj(out.transpose(1, 2).reshape(n, length, width))  # type: ignore[operator]
    return projected
