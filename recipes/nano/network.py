"""The checkpoint's own modules, run the way training needs them: pairs of one size as one batch,
and many questions after one video under a block mask. The production engine gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from model.products import has_bfloat16_products
from recipes.nano.shape import config


def new_model(seed: int, settings: dict[str, Any] | None = None) -> Qwen3VLForConditionalGeneration:
    """Freshly initialised weights; of the shipped shape where no settings are given."""
    torch.manual_seed(seed)
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(**(settings or config())))


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
    *,
    deep_too: bool = True,
    watched: list[Tensor] | None = None,
) -> list[Tensor]:
    """(pairs, patches, 1536) → main and DeepStack features, each (pairs, tokens, hidden).

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
    deep = []
    for number, block in enumerate(visual.blocks):
        x = x + _vision_attention(block.attn, block.norm1(x), rope)
        x = x + block.mlp(block.norm2(x))
        if watched is not None:
            watched.append(x)
        if deep_too and number in visual.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(number)]
            deep.append(merger(x).reshape(len(x), -1, merger.linear_fc2.out_features))
    main = visual.merger(x).reshape(len(x), -1, visual.merger.linear_fc2.out_features)
    return [main, *deep]


def _vision_attention(attention: torch.nn.Module, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    n, length, width = x.shape
    qkv = attention.qkv(x).reshape(n, length, 3, attention.num_heads, -1)  # type: ignore[operator]
    q, k, v = qkv.unbind(2)
    q, k = apply_rotary_pos_emb_vision(q, k, *rope)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    projected: Tensor = attention.proj(out.transpose(1, 2).reshape(n, length, width))  # type: ignore[operator]
    return projected


@dataclass(frozen=True, slots=True)
class Batch:
    """Videos of one length with their questions behind them.

    The first `video_len` columns are the video, padded at its end; the rest are questions.
    """

    ids: Tensor
    """(B, N) token ids."""
    positions: Tensor
    """(3, B, N)."""
    video_len: int
    visual: Tensor
    """(B, N) bool."""
    features: list[Tensor]
    """Main and DeepStack rows of all visual tokens in order, each (visual tokens, hidden)."""
    question_mask: Tensor
    """(B, 1, N − video_len, N) bool: what each question token may see."""


def run_layers(
    model: Qwen3VLForConditionalGeneration,
    batch: Batch,
    watched: list[tuple[Tensor, Tensor]] | None = None,
) -> list[Tensor]:
    """Hidden states (B, N, hidden) after each layer, and after the final norm at the end.

    Queries and keys of each layer, each (B, heads, N, head_dim), are left in `watched`.
    """
    text = model.model.language_model
    x = text.embed_tokens(batch.ids)
    x = x.masked_scatter(batch.visual[..., None], batch.features[0].to(x.dtype))
    cos, sin = text.rotary_emb(x, batch.positions)
    states = []
    for number, layer in enumerate(text.layers):
        mixed, query, key = _text_attention(
            layer.self_attn, layer.input_layernorm(x), (cos, sin), batch
        )
        x = x + mixed
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if number + 1 < len(batch.features):
            deep = torch.zeros_like(x).masked_scatter(
                batch.visual[..., None], batch.features[number + 1].to(x.dtype)
            )
            x = x + deep
        states.append(x)
        if watched is not None:
            watched.append((query, key))
    return [*states, text.norm(x)]


def _text_attention(
    attention: torch.nn.Module, x: Tensor, rope: tuple[Tensor, Tensor], batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*x.shape[:2], -1, attention.head_dim)
    q = attention.q_norm(attention.q_proj(x).view(shape)).transpose(1, 2)  # type: ignore[operator]
    k = attention.k_norm(attention.k_proj(x).view(shape)).transpose(1, 2)  # type: ignore[operator]
    v = attention.v_proj(x).view(shape).transpose(1, 2)  # type: ignore[operator]
    q, k = apply_rotary_pos_emb(q, k, *rope)
    cut = batch.video_len
    # Fused attention is faster in float32 than in bfloat16 on CPUs without AMX.
    with torch.autocast(x.device.type, enabled=False):
        q, k, v = q.float(), k.float(), v.float()
        seen = F.scaled_dot_product_attention(
            q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], is_causal=True
        )
        asked = F.scaled_dot_product_attention(q[:, :, cut:], k, v, attn_mask=batch.question_mask)
    out = torch.cat([seen, asked], dim=2).transpose(1, 2).flatten(2)
    projected: Tensor = attention.o_proj(out)  # type: ignore[operator]
    return projected, q, k
